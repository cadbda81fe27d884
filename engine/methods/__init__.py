"""The methods: a file and a line of `METHODS` each. Choices, grids and defaults of arguments derive from here."""

from engine.methods.adapter import ADAPTER
from engine.methods.linear import LINEAR
from engine.methods.method import Method
from engine.methods.partial import PARTIAL
from engine.training.grid import Grid

METHODS: dict[str, Method] = {method.name: method for method in (LINEAR, ADAPTER, PARTIAL)}
"""All methods by name; the first is the default."""

DEFAULT = next(iter(METHODS.values()))

HEADS: dict[str, Method] = {method.head: method for method in reversed(METHODS.values())}
"""A method by each `--classifier_head`: all methods of a head build the same classifier."""

GRIDS: dict[str, Grid] = {name: method.grid for name, method in METHODS.items()}
"""What `--hyperparams` names."""

AUDIO = Grid(lr=(0.1, 0.01, 0.001, 0.0001), weight_decay=(0.0, 0.01, 0.0001), batch_size=(8,))
"""The grid of ImageNet-ESC (section 9 of the protocol), which `--hyperparams` does not name."""

__all__ = ["AUDIO", "DEFAULT", "GRIDS", "HEADS", "METHODS", "Method"]
