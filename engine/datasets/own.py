"""Images of one's own, by their path: a folder of class folders, one of train/, val/ and test/, or a list in a CSV.

The first reading draws what is not given, and writes a split file in CoOp's format beside the images:

    <folder>/split.json          <list>.split.json for <list>.csv

From then on that file is what counts, whatever is added: what was made from its lists stays true. It has a digest of
the image files too, as other folders have the same names: `shop 1/photos/good/0001.jpg`, `shop 2/photos/good/0001.jpg`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import posixpath
import random
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.datasets import checks
from engine.datasets.benchmark import PARTS, Benchmark, Item
from engine.datasets.checks import counted, first
from engine.datasets.image_files import is_image
from engine.datasets.readers import JsonSplit
from engine.errors import UserError
from engine.files import read_lines, write_text

HEAD = 1 << 16
"""How many bytes of a file tell it from others of its size: to read all of many photographs takes minutes."""

SHARES = {"train": 0.5, "val": 0.2, "test": 0.3}
"""How the images of a class are divided where nothing says it, as CoOp does for datasets without a split."""


@dataclass(frozen=True)
class Found:
    """An image that was found: `label` is its class folder, or what the CSV says; `part` is None where it is drawn."""

    impath: str
    label: str
    part: str | None = None


@dataclass(frozen=True)
class Own:
    """Images at a path that was `given` on a command line: a folder, or a CSV."""

    given: str

    @property
    def folder(self) -> str:
        """The same path, absolute, so that it lies nowhere under DATA_DIR."""
        return os.path.abspath(self.given)

    def read(self, name: str, root: Path, check_images: bool, write: bool = True) -> Benchmark:
        """Read the images, with the split file beside them, which is drawn if there is none, and written if `write`.

        `root` is `folder`; messages have it as it was given. What a person should know of the reading is in the `notes`
        of the benchmark. Raises UserError for images, classes or lists that make no dataset, and for a split file that
        does not belong to them.
        """
        path = Path(self.given)
        is_list = path.is_file()
        if is_list and path.suffix.lower() != ".csv":
            raise UserError(f"{path} is neither a folder of images nor a list of them, which ends in .csv")
        folder = path.parent if is_list else path
        split_file = folder / (f"{path.stem}.split.json" if is_list else "split.json")
        coop, is_there = JsonSplit("", ".", split_file.name), split_file.exists()
        if is_there and not check_images:
            return replace(coop.read(name, folder, check_images=False), upright=True)
        images, notes = _from_list(path) if is_list else _from_folders(path)
        names = _renamed(list(dict.fromkeys(image.label for image in images)), folder)
        notes += _check_classes(names, path)
        if is_there:
            split = coop.read(name, folder, check_images=False)
            notes += _compare(images, names, split, split_file)
        else:
            split = _new_split(_draw(images, path), names, name, folder)
            notes += [*split.notes, *([_write_split(split, split_file)] if write else [])]
        return replace(split, notes=tuple(notes), upright=True)


# --- what there is ---------------------------------------------------------------------------------------------------


def _from_folders(root: Path) -> tuple[list[Found], list[str]]:
    """The images under a folder, classes in the order of their folders' names, and notes on what was passed over."""
    folders = [entry.name for entry in _visible(root) if entry.is_dir()]
    others = [name for name in folders if name not in PARTS]
    passed: list[str] = []
    odd = [name for name in others if name.lower() in PARTS]
    if odd and {"train", "test"} <= {name.lower() for name in folders}:
        raise UserError(f"{root}: {' and '.join(odd)} would be classes; rename them in small letters, as parts are")
    if {"train", "test"} <= set(folders):
        if others:
            raise UserError(
                f"{root} has train and test, and folders beside them: {first(others, len(others))}; move them away"
            )
        images = [image for part in PARTS if part in folders for image in _classes(root, f"{part}/", passed, part)]
        images.sort(key=lambda image: image.label)
    elif folders and not others:
        raise UserError(
            f"{root} has {' and '.join(folders)} alone; it should have train, test and perhaps val (which is drawn from"
            " train if need be), or a folder for each class"
        )
    else:
        images = _classes(root, "", passed)
    kinds = ", ".join(f"{ending} ({count})" for ending, count in Counter(passed).most_common())
    return images, [f"{root}: files whose names do not end as images' do are passed over: {kinds}"] if passed else []


def _classes(root: Path, inside: str, passed: list[str], part: str | None = None) -> list[Found]:
    """The images of the class folders in a folder `inside` (`train/`) of `root`; raises UserError for one without.

    `passed` collects the endings of files that are no images.
    """
    images: list[Found] = []
    for entry in _visible(root / inside):
        if entry.is_dir():
            others: list[str] = []
            found = [Found(path, entry.name, part) for path in _walk(root, f"{inside}{entry.name}", others)]
            if not found:
                endings = f" (what is there ends in {first(sorted(set(others)), len(set(others)))})" if others else ""
                raise UserError(f"{entry.path}: a class folder without images{endings}; remove it, or put some there")
            passed += others
            images += found
    if not images:
        raise UserError(f"{root / inside} has no folders: it should have one for each class, with its images in it")
    return images


def _walk(root: Path, folder: str, passed: list[str], above: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths from `root` of all images in `folder` and in folders below, links followed.

    `passed` collects the endings of other files; `above` are the real paths of the folders on the way.
    """
    real = os.path.realpath(root / folder)
    if real in above:
        raise UserError(f"{root / folder} is a link to a folder that it lies in; remove it")
    for entry in _visible(root / folder):
        path = f"{folder}/{entry.name}"
        if entry.is_dir():
            yield from _walk(root, path, passed, (*above, real))
        elif not entry.is_file():
            raise UserError(f"{entry.path}: a link to a file that is not there, or no file at all; remove it")
        elif is_image(entry.name):
            yield path
        else:
            passed.append(os.path.splitext(entry.name)[1] or entry.name)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name, without hidden files; raises UserError for names that are no text."""
    with os.scandir(folder) as entries:
        seen = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    if odd := [ascii(entry.name) for entry in seen if not _is_text(entry.name)]:
        raise UserError(f"{folder}: names that are not in UTF-8, rename them: {first(odd, len(odd))}")
    return seen


def _is_text(name: str) -> bool:
    """Whether a file's name is text: Python has lone surrogates for other bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _from_list(path: Path) -> tuple[list[Found], list[str]]:
    """The images of a CSV, classes in the order of their names, and no notes. Raises UserError for what is no list."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [(column or "").strip().lower() for column in reader.fieldnames or []]
            if not {"image", "label"} <= set(columns):
                raise UserError(
                    f"{path}: the first line names the columns image,label or image,label,split, not {columns}"
                )
            reader.fieldnames = columns
            images = [_image(row, f"{path}, line {reader.line_num}") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV in UTF-8 ({error})") from error
    if not images:
        raise UserError(f"{path} lists no images")
    twice = [impath for impath, count in Counter(image.impath for image in images).items() if count > 1]
    if twice:
        raise UserError(f"{path}: images that are listed more than once: {first(twice, len(twice))}")
    if "split" in columns and not {"train", "test"} <= {image.part for image in images}:
        raise UserError(f"{path}: the column split should have train, test and perhaps val (drawn from train if not)")
    if missing := checks.missing_images((image.impath for image in images), path.parent):
        raise UserError(f"{path}: {len(missing)} of {len(images)} images are not there: {first(missing, len(missing))}")
    return sorted(images, key=lambda image: (image.label, image.impath)), []


def _image(row: dict[str, Any], where: str) -> Found:
    """A row of a list, checked."""
    if None in row or None in row.values():
        raise UserError(
            f"{where}: more or fewer fields than the first line has (a comma in one needs quotes around it)"
        )
    impath, label = posixpath.normpath(row["image"].strip() or "."), " ".join(row["label"].split())
    if impath in (".", "..") or impath.startswith(("/", "../")):
        raise UserError(f"{where}: '{row['image']}' is no path below the folder of the list, from which paths start")
    if not label:
        raise UserError(f"{where}: no label")
    part = row["split"].strip() if "split" in row else None
    if part not in (None, *PARTS):
        raise UserError(f"{where}: split is '{part}', not train, val or test")
    return Found(impath, label, part)


# --- what classes are called -----------------------------------------------------------------------------------------


def _renamed(labels: list[str], folder: Path) -> dict[str, str]:
    """The class name of each label: what `classnames.txt` or `classnames.json` in `folder` says, or the label."""
    text, table = folder / "classnames.txt", folder / "classnames.json"
    if text.exists() and table.exists():
        raise UserError(f"{text} and {table} both rename classes; remove one")
    forms = {label: _composed(label) for label in labels}
    known = list(forms.values())
    names = _names_in_lines(text, known) if text.exists() else _names_in_json(table) if table.exists() else {}
    source = text if text.exists() else table
    if unknown := [label for label in names if label not in known]:
        raise UserError(
            f"{source}: no class is called {first(unknown, len(unknown))}; there are {first(labels, len(labels))}"
        )
    return {label: names.get(form, label) for label, form in forms.items()}


def _composed(text: str) -> str:
    """The same letters, as most keyboards write them: folders from a Mac may have an accent as a letter of its own."""
    return unicodedata.normalize("NFC", text)


def _names_in_lines(path: Path, labels: list[str]) -> dict[str, str]:
    """Lines `<folder> <class name>`: the folder is the longest that a line begins with, as both may have spaces."""
    names: dict[str, str] = {}
    for number, words in enumerate(map(_composed, read_lines(path)), start=1):
        own = [label for label in labels if words.startswith(label) and words[len(label) :][:1].isspace()]
        label = max(own, key=len, default=words.split(maxsplit=1)[0] if words else "")
        name = " ".join(words[len(label) :].split())
        if words and not name:
            raise UserError(f"{path}, line {number}: not `<folder> <class name>`: {words!r}")
        if label in names:
            raise UserError(f"{path}, line {number}: {label} has a name already")
        if words:
            names[label] = name
    return names


def _names_in_json(path: Path) -> dict[str, str]:
    """An object of class names by folder."""
    try:
        names = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(names, dict) or not all(isinstance(name, str) and name.strip() for name in names.values()):
        raise UserError(f"{path}: not an object of class names by folder, {{folder: class name}}")
    return {_composed(label): " ".join(name.split()) for label, name in names.items()}


def _check_classes(names: dict[str, str], source: Path) -> list[str]:
    """Raise UserError for one class, or for classes that prompts, or a person, cannot tell apart.

    Gives a note where names are numbers, which say nothing in a prompt.
    """
    if len(names) < 2:
        raise UserError(f"{source} has one class, {next(iter(names))}; a classifier needs two or more")
    same: dict[str, list[str]] = {}
    for label, name in names.items():
        same.setdefault(" ".join(_composed(name).replace("_", " ").split()).casefold(), []).append(label)
    twins = [" and ".join(labels) for labels in same.values() if len(labels) > 1]
    if twins:
        raise UserError(
            f"{source}: classes of the same name, but for capitals and underscores: {first(twins, len(twins))}. Put the"
            " images of one class in one folder, or name them apart in classnames.txt"
        )
    if not all(name.isdigit() for name in names.values()):
        return []
    return [f"{source}: classes are called {first(names.values(), len(names))}; prompts need names: see classnames.txt"]


# --- the split -------------------------------------------------------------------------------------------------------


def _compare(images: list[Found], names: dict[str, str], split: Benchmark, split_file: Path) -> list[str]:
    """Notes on what a split file leaves out; raises UserError where it has images or classes that are not there."""
    anew = (
        f"delete {split_file}, and what indices, features and experiments have of {split.name}: it is then drawn anew"
    )
    found = {image.impath: image for image in images}
    listed = [(item.impath, (item.classname, part)) for part in PARTS for item in split.part(part)]
    known = dict(listed)
    if twice := [impath for impath, count in Counter(impath for impath, _ in listed).items() if count > 1]:
        raise UserError(f"{split_file} has images more than once: {first(twice, len(twice))}; leave one line of each")
    if missing := [impath for impath in known if impath not in found]:
        raise UserError(
            f"{split_file} lists {counted(len(missing), 'image')} that the folder lacks:"
            f" {first(missing, len(missing))}. Put back what is gone, or {anew}"
        )
    drawn = not any(image.part == "val" for image in images)
    other = [
        impath
        for impath, (classname, part) in known.items()
        if names[found[impath].label] != classname
        or found[impath].part not in (None, part, "train" if part == "val" and drawn else part)
    ]
    if other:
        raise UserError(
            f"{split_file} says another class name or part of {counted(len(other), 'image')} than there is now:"
            f" {first(other, len(other))}; {anew}"
        )
    added = [image for image in images if image.impath not in known]
    new = dict.fromkeys(names[image.label] for image in added if names[image.label] not in split.classnames)
    classes = f" (of new classes too: {first(new, len(new))})" if new else ""
    what = f"leaves out {counted(len(added), 'image')}{classes}: {first((i.impath for i in added), len(added))}"
    return [f"{split_file} is older, and {what}. For a split that has all, {anew}"] if added else []


def _new_split(parts: dict[str, list[Found]], names: dict[str, str], name: str, folder: Path) -> Benchmark:
    """The images by part as a dataset, after a look at what an image must be."""
    files, notes = _look_at(folder, sorted(image.impath for own in parts.values() for image in own))
    labels = {label: number for number, label in enumerate(names)}
    items = {part: [Item(i.impath, labels[i.label], names[i.label]) for i in own] for part, own in parts.items()}
    return Benchmark(name, folder, **items, classnames=list(names.values()), files=files, notes=tuple(notes))


def _write_split(split: Benchmark, split_file: Path) -> str:
    """Write the split file; a note of what it has."""
    lists = {
        part: [json.dumps([i.impath, i.label, i.classname], ensure_ascii=False) for i in split.part(part)]
        for part in PARTS
    }
    text = ",\n".join(f'"{part}": [\n' + ",\n".join(rows) + "\n]" for part, rows in lists.items())
    try:
        write_text(split_file, f'{{\n{text},\n"files": "{split.files}"\n}}\n')
    except UserError as error:
        raise UserError(
            f"{error}. The split is written beside the images, once; where that cannot be, a folder elsewhere with"
            f" links to all that is in {split.image_dir} will do as well"
        ) from error
    counts = ", ".join(f"{len(lists[part])} {part}" for part in PARTS)
    return f"{split_file} written: {len(split.classnames)} classes, {counts}"


def _draw(images: list[Found], source: Path) -> dict[str, list[Found]]:
    """The images by part, class after class: as given, or drawn from each class, seeded by its label alone.

    Raises UserError for classes without an image to train on, or to validate on; of what is drawn, to test on.
    """
    given = {image.part for image in images}
    drawn = PARTS if given == {None} else () if "val" in given else ("train", "val")
    needed = drawn or ("train", "val")
    classes: dict[str, list[Found]] = {}
    for image in images:
        classes.setdefault(image.label, []).append(image)
    parts: dict[str, list[Found]] = {part: [] for part in PARTS}
    short = []
    for label, own in classes.items():
        of_class = {part: [image for image in own if image.part == part] for part in PARTS}
        has = ", ".join(f"{len(of_class[part])} {part}" for part in needed) if given != {None} else f"{len(own)}"
        if drawn:
            of_class |= _divide(own if given == {None} else of_class["train"], drawn, label)
        if not all(of_class[part] for part in needed):
            short.append(f"{label} ({has})")
        for part in PARTS:
            parts[part] += of_class[part]
    if short:
        raise UserError(
            f"{source}: too few images of {first(short, len(short))}. A class needs {len(needed)} at least, one for"
            f" each of {', '.join(needed)}. Add some, or remove it"
        )
    return parts


def _divide(images: list[Found], parts: Sequence[str], seed: str) -> dict[str, list[Found]]:
    """A class's images by part, in their order: a share of each, at least one, and to train on what is left."""
    left, divided = random.Random(seed).sample(images, len(images)), {}
    whole = sum(SHARES[part] for part in parts)
    for part in parts:
        if part != "train":
            count = max(1, round(len(images) * SHARES[part] / whole))
            divided[part], left = left[:count], left[count:]
    return {part: sorted(own, key=lambda image: image.impath) for part, own in {**divided, "train": left}.items()}


def _look_at(folder: Path, impaths: list[str]) -> tuple[str, list[str]]:
    """A digest of image files, by their names, sizes and beginnings, and a note on those that are there twice.

    Raises UserError for files that are no images, or too large, before a split is made that has them.
    """
    from engine.images import opened  # a split that is there needs no decoder

    faults, digests = [], {}
    for impath in impaths:
        try:
            with opened(folder / impath):
                digests[impath] = _file_digest(folder / impath)
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError and more on bad bytes
            faults.append(f"  {folder / impath}: {error}")
    if faults:
        lines = "\n".join([*faults[: checks.SHOWN], *["  ..."] * (len(faults) > checks.SHOWN)])
        raise UserError(f"files that are no images, or too large: {len(faults)}. Replace or remove them:\n{lines}")
    same: dict[str, list[str]] = {}
    for impath, digest in digests.items():
        same.setdefault(digest, []).append(impath)
    copies = [" and ".join(own[:2]) for own in same.values() if len(own) > 1]
    notes = [
        f"{folder}: images that are there more than once, as copies or links: {first(copies, len(copies))}; what is"
        " trained on may be tested on"
    ] * bool(copies)
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest(), notes


def _file_digest(path: Path) -> str:
    """SHA-256 of a file's size and beginning."""
    with path.open("rb") as file:
        return hashlib.sha256(b"%d %b" % (os.fstat(file.fileno()).st_size, file.read(HEAD))).hexdigest()
