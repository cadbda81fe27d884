"""docs/methods.md has a section for each method, whose grid and WiSE-FT are the registry's."""

import re
from pathlib import Path

import pytest

from engine.methods import METHODS, REGISTRY

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## [^\n]*\(`(\w+)`\)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def item(name, what):
    """Return the text of a list item of a section."""
    (found,) = re.findall(rf"^- {what}: (.*?)(?=^- |\Z)", SECTIONS[name], re.MULTILINE | re.DOTALL)
    return " ".join(found.split())


@pytest.mark.parametrize("name", REGISTRY)
def test_the_grid(name):
    """In the order in which ties are broken."""
    grid = item(name, "Grid")
    named = re.findall(r"`(\w+)` ([\d.e, -]+)", grid)
    axes = {axis: tuple(map(float, values.rstrip(".").split(","))) for axis, values in named}
    expected = METHODS[name].grid.axes
    if not expected:
        assert grid.startswith("none")
    else:
        assert axes == {axis: tuple(map(float, values)) for axis, values in expected.items()}
        assert list(axes) == list(expected)


@pytest.mark.parametrize("name", REGISTRY)
def test_wise_ft(name):
    assert item(name, "WiSE-FT").startswith("yes" if METHODS[name].wise_ft else "no")


@pytest.mark.parametrize("name", SECTIONS)
def test_three_sentences_an_equation_and_differences(name):
    """Counted by the full stops at ends of words; some methods take a sentence more."""
    text = " ".join(SECTIONS[name].partition("\n- ")[0].split())
    assert 3 <= len(re.findall(r"[^.]\.(?= |$)", text)) <= 5, text
    assert re.search(r"`.*@.*`|cross-entropy", " ".join(re.findall(r"- (?:Logits|Loss).*", SECTIONS[name])))
    assert item(name, "Differences")
