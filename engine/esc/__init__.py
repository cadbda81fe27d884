"""ImageNet-ESC (section 9 of the protocol): images and sounds of the same classes, each helping to classify the other.

`benchmark` defines the matching images and sounds, `data` creates few-shot tasks from their features, `inputs` loads
the features, and `sweep` defines the grids and the zero-shot classifiers. `engine.results.esc` has the records.
"""
