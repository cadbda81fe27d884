"""Values from JSON by the types of dataclasses; what files make of it is tested with the files."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest

from engine.schema import build


class Point(NamedTuple):
    x: float
    n: int


@dataclass
class Inner:
    shots: int | str
    best: Point | None = None


@dataclass
class Outer:
    inner: Inner
    points: list[Point]
    mean: tuple[float, ...]
    flag: bool = False
    others: dict[str, Inner] = field(default_factory=dict)


WHOLE = {
    "inner": {"shots": "all", "best": [0.5, 1]},
    "points": [[0, 2], [1.5, 3]],
    "mean": [0.1, 2],
    "flag": True,
    "others": {"a": {"shots": 2}},
}


def test_values_are_those_of_json():
    expected = Outer(Inner("all", Point(0.5, 1)), [Point(0, 2), Point(1.5, 3)], (0.1, 2), True, {"a": Inner(2)})
    assert build(Outer, WHOLE, "it") == expected
    assert isinstance(build(Outer, WHOLE, "it").points[0].x, int)
    assert build(Outer, {"inner": {"shots": 1}, "points": [], "mean": []}, "it") == Outer(Inner(1), [], ())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inner": []}, "it.inner is not an object"),
        ({"inner": {"shots": None}}, "it.inner.shots is not a whole number"),
        ({"inner": {"shots": True}}, "it.inner.shots is not a whole number"),
        ({"inner": {"shots": 1, "best": [1, 2.0]}}, "it.inner.best[1] is not a whole number"),
        ({"points": {}}, "it.points is not a list"),
        ({"points": [[1]]}, "it.points[0] has 1 elements, not 2"),
        ({"mean": [float("inf")]}, "it.mean[0] is not a finite number"),
        ({"mean": [10**400]}, "it.mean[0] is not a finite number"),
        ({"flag": 1}, "it.flag is not true or false"),
        ({"others": {"a": {}}}, "it.others.a has no shots"),
        ({"x" * 99: 1}, "it has an unknown field, " + "x" * 50),
    ],
)
def test_other_types_are_named_by_their_place(change, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        build(Outer, WHOLE | change, "it")
