"""Cached CLIP features: `store` reads and writes them, `planning` finds missing ones, `extract` makes them, `verify`
checks them."""
