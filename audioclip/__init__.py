"""AudioCLIP's audio tower, written from its specification: `frontend`, `tower`, `checkpoint`; the script runs it."""
