"""How the code is laid out: who may import whom, name a method or print, and how long files and functions may be."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from engine.methods import METHODS

ROOT = Path(__file__).parents[1]
SCRIPTS = [*ROOT.glob("*.py"), ROOT / "audioclip" / "audio_features.py"]
ENGINE = sorted((ROOT / "engine").rglob("*.py"))
ALL = [*SCRIPTS, *ENGINE, *(path for path in (ROOT / "audioclip").glob("*.py") if path not in SCRIPTS)]

FORBIDDEN = {
    "audioclip": {"engine"},
    "argparse": {
        f"engine.{name}" for name in "datasets features model training methods tasks results paper clip".split()
    },
    "pathlib": {"engine.training", "engine.model", "engine.methods"},
    "engine.datasets": {"engine.training", "engine.model", "engine.methods"},
    "engine.features": {f"engine.{name}" for name in "training model methods datasets results".split()},
    "engine.methods": {"engine.training", "engine.model", "engine.tasks", "engine.sweep"},
    "engine.training": {"engine.features", "engine.results"},
    "engine.paper": {"engine.results", "engine.sweep", "engine.esc", "engine.training", "engine.features"},
    "tqdm": {"engine"},
}
"""Modules, and the packages that import nothing of them."""
VALUES = ("engine.training.grid", "engine.training.schedule")
"""Values that know nothing of training, which anything may import."""
NAMING_METHODS = {
    ("engine.esc.data", "linear"): "the cells by which ImageNet-ESC finds its images need some method",
    ("engine.results.esc", "linear"): "section 9 of the protocol fits the probes of ImageNet-ESC by linear probing",
    ("engine.model", "linear"): "the remedy of an error: the adapter's module, for features too small for it",
    ("engine.clip.split", "linear_adapter"): "the remedy of an error: encoders without a projection to split off",
}
"""Files that name a method, and why. Others know methods by the registry alone; tables of papers have rows of them."""
MAX_FILE, MAX_SCRIPT, MAX_FUNCTION = 450, 80, 50


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports anywhere, by their whole names; of `from a import b` both a and a.b."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_engine_has_no_circles_of_packages():
    """Imports inside of functions and for types count."""
    known = {name_of(path) for path in ENGINE}
    imports: dict[str, set[str]] = {}
    for path in ENGINE:
        package = ".".join(name_of(path).split(".")[:2])
        found = {".".join(name.split(".")[:2]) for name in imported(path) if is_in(name, "engine")}
        imports.setdefault(package, set()).update((found & known) - {package, "engine"})
    left = dict(imports)
    while free := [package for package, own in left.items() if not own & left.keys()]:
        for package in free:
            del left[package]
    assert not left, {package: sorted(own & left.keys()) for package, own in left.items()}


@pytest.mark.parametrize("module", FORBIDDEN)
def test_what_is_not_imported(module):
    packages = FORBIDDEN[module]
    paths = [path for path in ENGINE if any(is_in(name_of(path), package) for package in packages)]
    assert paths

    def imports(path: Path) -> bool:
        found = (name for name in imported(path) if is_in(name, module))
        return any(not any(is_in(name, values) for values in VALUES) for name in found)

    importing = [name_of(path) for path in paths if imports(path)]
    assert [name for name in importing if (module, name) != ("tqdm", "engine.terminal")] == []


def words_of(path: Path) -> Iterator[str]:
    """Names in the code of a file: identifiers, strings that are one word, and the values of options in messages."""
    for node in ast.walk(parsed(path)):
        found = (getattr(node, field, None) for field in ("id", "attr", "arg", "name", "asname"))
        yield from (name for name in found if isinstance(name, str))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            quoted = re.findall(r"--(?:method|mode|classifier_head|hyperparams) (\w+)", node.value)
            yield from (f"'{word}'" for word in (node.value, *quoted))


def test_methods_are_named_in_their_files_and_in_papers_tables_alone():
    """What a method is called elsewhere is what `METHODS` has it under: a new one is a file, and a line there."""
    paths = [p for p in ENGINE if not any(is_in(name_of(p), own) for own in ("engine.methods", "engine.paper"))]
    naming = set()
    for path in paths:
        words = set(words_of(path))
        if "functools.partial" in imported(path):
            words.discard("partial")
        words.discard("linear")  # an adjective where it is not quoted
        naming |= {(name_of(path), name) for name in METHODS if {name, f"'{name}'"} & words}
    assert naming == NAMING_METHODS.keys()


def test_nothing_imports_a_script():
    scripts = {name_of(path) for path in SCRIPTS} | {path.stem for path in SCRIPTS}
    assert [(path.name, name) for path in ALL for name in imported(path) if name in scripts] == []


def test_one_module_of_engine_prints():
    """By `print`, the standard streams or a progress bar; the last is among the imports above."""
    printing = set()
    for path in ENGINE:
        for node in ast.walk(parsed(path)):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            if is_print or (isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr")):
                printing.add(name_of(path))
    assert printing == {"engine.terminal"}


def test_files_and_functions_are_short():
    long = []
    for path in ALL:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        is_short = path.parent == ROOT or path == ROOT / "engine" / "config" / "__init__.py"
        if lines > (MAX_SCRIPT if is_short else MAX_FILE):
            long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        functions = (node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef))
        for node in functions:
            if (lines := node.end_lineno - node.lineno + 1) > MAX_FUNCTION:
                long.append(f"{path.relative_to(ROOT)} {node.name}: {lines} lines")
    assert long == []
