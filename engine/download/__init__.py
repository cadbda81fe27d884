"""Getting datasets: a table of where they are, a download that goes on where it stopped, and safe unpacking."""

from engine.download.install import by_hand, download

__all__ = ["by_hand", "download"]
