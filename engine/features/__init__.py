"""Cached CLIP features: `store` keeps them on disk, `planning` says what is missing, `extract` makes it, `verify`
checks what is there."""
