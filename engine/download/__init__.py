"""Get datasets: a table of their addresses, resumable downloads, and safe unpacking."""

from engine.download.install import download, manual_steps

__all__ = ["download", "manual_steps"]
