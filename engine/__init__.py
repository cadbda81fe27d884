"""Cross-modal few-shot learning with CLIP: the package that the scripts share."""
