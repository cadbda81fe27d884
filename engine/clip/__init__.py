"""Encoders by name. `names` is light; `load` imports open_clip, which takes seconds: import it only when needed."""
