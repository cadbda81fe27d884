"""The embedded example: a small image world drawn by a program, and tiny CLIP encoders that have learned it.

`from engine.demo.install import install` puts the datasets on disk; the encoders are engine/demo/models.
"""
