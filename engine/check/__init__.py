"""Check an installation: what works, what is missing and what is wrong, a line for each, whatever is damaged."""

from engine.check.findings import WRONG, format_section
from engine.check.sections import CheckOptions, Section, dataset_section, inspect_datasets, installation

__all__ = ["WRONG", "CheckOptions", "Section", "dataset_section", "format_section", "inspect_datasets", "installation"]
