"""Getting datasets: a table of where they are, a download that goes on where it stopped, and safe unpacking."""

from engine.download.install import download, manual_steps

__all__ = ["download", "manual_steps"]
