"""Progress of downloads on the terminal."""

from __future__ import annotations

from tqdm import tqdm


class Bar:
    """A progress bar for one thing after another."""

    def __init__(self):
        self.what, self.bar = None, None

    def show(self, what: str, done: int, total: int | None) -> None:
        """That `done` bytes of `what` are here, of `total` if that is known."""
        if what != self.what:
            self.close()
            self.what, self.bar = what, tqdm(desc=what, unit="B", unit_scale=True, unit_divisor=1024, initial=done)
        self.bar.total = total
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        """Leave it as it stands."""
        if self.bar is not None:
            self.bar.close()
