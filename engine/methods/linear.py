"""Linear probing (section 4 of the protocol): a linear layer on the L2-normalised feature."""

from engine.methods.method import Method
from engine.training.descent import GradientDescent
from engine.training.grid import Grid

METHOD = Method(
    title="linear probing",
    grid=Grid(lr=(1e-3, 1e-4), weight_decay=(0.0, 0.01, 0.0001), batch_size=(8, 32)),
    fit=GradientDescent(),
)
