"""Cached CLIP features: `store` keeps them on disk, `extract` makes them."""
