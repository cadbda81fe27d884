"""ImageNet-ESC (section 9 of the protocol): images and sounds of the same classes, each helping to classify the other.

`benchmark` says which images and sounds belong together, `data` reads their features and makes few-shot problems of
them, `sweep` trains the probes and leaves a record of each run; records and tables are `engine.results.esc`'s.
"""
