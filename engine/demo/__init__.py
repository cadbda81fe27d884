"""The embedded example: a small world of generated images, and tiny CLIP encoders trained on it.

`engine.demo.install.install` writes the datasets to disk; the encoders are in engine/demo/models.
"""
