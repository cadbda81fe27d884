"""Check an installation: one line for each thing that works, is missing or is wrong, even if files are damaged."""

from engine.check.findings import WRONG, format_section
from engine.check.sections import CheckOptions, Section, dataset_section, inspect_datasets, installation

__all__ = ["WRONG", "CheckOptions", "Section", "dataset_section", "format_section", "inspect_datasets", "installation"]
