"""The two executors."""

from engine.training import sequential, stacked

EXECUTORS = {"sequential": sequential.train, "stacked": stacked.train}
"""What `--executor` names: the same function of the same jobs, to float tolerance."""
