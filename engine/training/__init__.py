"""Training classifiers on cached features.

`problem` says what a run trains on, `batches` in which order, `sequential` defines what training means, `stacked` does
the same for many runs at once, `evaluate` counts correct predictions.
"""

from engine.training import sequential, stacked

EXECUTORS = {"sequential": sequential.train, "stacked": stacked.train}
"""What `--executor` names: the same function of the same jobs, to float tolerance."""
