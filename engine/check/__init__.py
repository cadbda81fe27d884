"""What an installation has, lacks, and has wrong: each is a line, whatever it is that is damaged."""

from engine.check.findings import WRONG, shown
from engine.check.sections import Asked, installation, judge, of_datasets

__all__ = ["WRONG", "Asked", "installation", "judge", "of_datasets", "shown"]
