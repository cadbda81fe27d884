"""AudioCLIP's audio tower, written from its specification: `frontend`, `tower`, `checkpoint`, and the script."""
