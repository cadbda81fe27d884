"""What an installation has, lacks, and has wrong: each is a line, whatever it is that is damaged."""

from engine.check.findings import WRONG, format_section
from engine.check.sections import CheckOptions, dataset_section, inspect_datasets, installation

__all__ = ["WRONG", "CheckOptions", "dataset_section", "format_section", "inspect_datasets", "installation"]
