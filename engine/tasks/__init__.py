"""From features to tasks: those of image datasets, and those of ImageNet-ESC."""
