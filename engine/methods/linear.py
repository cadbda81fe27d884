"""Linear probing (section 4 of the protocol): a linear layer on the L2-normalised feature."""

from engine.methods.method import Method
from engine.training.grid import Grid

LINEAR = Method(
    name="linear",
    title="linear probing",
    head="linear",
    grid=Grid(lr=(1e-3, 1e-4), weight_decay=(0.0, 0.01, 0.0001), batch_size=(8, 32)),
)
