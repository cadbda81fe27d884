"""Cross-modal few-shot learning with CLIP: what the scripts in the project's root share."""
