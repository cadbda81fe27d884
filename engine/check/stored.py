"""Features and runs on disk: how much there is, what is damaged, and what belongs to things that are no longer there.

Of features the headers are read, and no rows; `features.py --verify` reads all. Of runs every record is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from engine import files, templates
from engine.check.findings import NOTE, OK, WRONG, Finding
from engine.clip import names
from engine.clip.weights import preprocessing_of
from engine.datasets.benchmark import PARTS, Benchmark
from engine.datasets.checks import counted, first
from engine.datasets.few_shot import file_digest, load_split, split_path
from engine.datasets.image_files import is_skipped
from engine.errors import UserError
from engine.features import audio
from engine.features.listing import changes, listing_of, read_listing, stored_listing
from engine.features.mining import read_any_mined
from engine.features.prompts import prompts_digest, read_texts_provenance
from engine.features.store import BY_CONTENT, Bank, FeaturePaths, Provenance
from engine.files import CannotOpen
from engine.results import heads
from engine.results.runs import RECORD, Cell, Record, read_record, require_grid, selected
from engine.training.grid import Hyperparameters


@dataclass
class Stored:
    """The features of a dataset under an encoder: what their banks and prompts (relative paths) were made from."""

    place: FeaturePaths
    sources: dict[str, Provenance] = field(default_factory=dict)
    faults: list[Finding] = field(default_factory=list)

    @property
    def encoder(self) -> str:
        return self.place.folder.parent.name

    @property
    def dataset(self) -> str:
        return self.place.folder.name

    def of(self, start: str) -> set[Provenance]:
        """The sources of what lies in folders whose names begin with `start`: a part of a dataset, or `text`."""
        return {source for name, source in self.sources.items() if name.startswith(f"{start}-layer_")}


def folders(feature_dir: str | Path) -> list[tuple[str, str]]:
    """The encoders and datasets that have features, by the names of their folders."""
    return [
        (encoder.name, dataset.name) for encoder in _subfolders(Path(feature_dir)) for dataset in _subfolders(encoder)
    ]


def features(feature_dir: str | Path, encoder: str, dataset: str) -> Stored:
    """Read what the features of a dataset under an encoder say of themselves."""
    stored = Stored(FeaturePaths.of(feature_dir, encoder, dataset))
    root = stored.place.folder
    if (encoder, dataset) == (audio.ENCODER, audio.DATASET):
        _take(stored, "sounds-layer_0", lambda: _folds(root))
        return stored
    for folder in _subfolders(root):
        for bank in _subfolders(folder):
            _take(stored, f"{folder.name}/{bank.name}", lambda bank=bank: _bank(bank, stored))
        for path in sorted(folder.glob("*.safetensors")):
            _take(stored, f"{folder.name}/{path.stem}", lambda path=path: read_texts_provenance(path))
    readers = dict.fromkeys(sorted(root.glob(stored.place.mined("*").name)), read_any_mined)
    for path, read in {**readers, stored.place: read_listing}.items():
        try:
            read(path)
        except UserError as error:
            stored.faults.append(Finding(WRONG, str(error)))
    return stored


def _take(stored: Stored, name: str, read: Callable[[], Provenance | None]) -> None:
    """Add the source that `read` gives, or what is wrong with it."""
    try:
        source = read()
    except Exception as error:  # whatever a damaged file leads to
        stored.faults.append(Finding(WRONG, str(error)))
        return
    if source is not None:
        stored.sources[name] = source


def _bank(folder: Path, stored: Stored) -> Provenance | None:
    """The source of a bank. Of a test set all is asked for, whatever the splits; less is from an interrupted run."""
    bank = Bank(folder)
    if bank.provenance is not None and folder.parent.name.startswith("test-") and len(bank) < bank.provenance.length:
        text = f"{folder} has {len(bank)} of {bank.provenance.length} test images: features.py goes on with it"
        stored.faults.append(Finding(NOTE, text))
    return bank.provenance


def _folds(folder: Path) -> audio.AudioProvenance | None:
    """The source of the features of sounds."""
    numbers = sorted(int(path.stem.removeprefix("fold_")) for path in folder.glob("fold_*.safetensors"))
    return audio.read_folds(folder, numbers)[numbers[0]].provenance if numbers else None


def stale(stored: Stored, weights: str | None, benchmark: Benchmark | None, sounds: str | None) -> list[Finding]:
    """Features of other `weights` (a digest), or of another list, than what is installed; None where nothing is known.

    `sounds` is the digest of ESC-50's list.
    """
    reasons = []
    made_by = {source.encoder_digest for source in stored.sources.values()}
    if len(made_by) > 1:
        reasons.append("some were made by other weights than the rest")
    elif weights and made_by - {weights}:
        reasons.append(f"made by other weights ({made_by.pop()[:12]}) than those that are here ({weights[:12]})")
    reasons += _prepared_otherwise(stored)
    wanted, now, changed = {"sounds": sounds}, benchmark and listing_of(benchmark), []
    then = stored_listing(stored.place)
    if now is not None and then is not None:
        kinds = changes(then, now)
        changed = [f"{', '.join(kinds)} since its features were made; features.py makes these anew"] if kinds else []
    elif benchmark is not None:
        wanted |= {part: BY_CONTENT if now else benchmark.digest(part) for part in PARTS if stored.of(part)}
    for part, digest in wanted.items():
        if digest and any(source.list_digest != digest for source in stored.of(part)):
            reasons.append(f"{part} features of another list than the one that is installed")
    is_renamed = now is not None and then is not None and then.classnames != now.classnames  # which `changes` tells
    for name, source in stored.sources.items() if benchmark is not None and not is_renamed else ():
        if name.startswith("text-") and _prompts(benchmark, Path(name).name) not in (None, source.list_digest):
            text = f"{name}: other prompts or class names than the dataset has"
            changed.append(f"{text}; features.py makes these anew") if now else reasons.append(text)
    return [
        Finding(WRONG, f"{stored.place.folder}: {reason}; remove what is old, and make it anew") for reason in reasons
    ] + [Finding(WRONG, f"{stored.place.folder}: {text}") for text in changed]


def _prepared_otherwise(stored: Stored) -> list[str]:
    """Features of images that were not prepared as the encoder's name says, as an earlier version did for some."""
    name, _ = names.parse_folder(stored.encoder)
    wanted = preprocessing_of(name)
    made = {source.preprocessing for part in PARTS for source in stored.of(part)}
    return [
        f"made of images that were prepared otherwise than {name} wants them ({other}; {wanted.description})"
        for other in sorted(made)
        if wanted is not None and other != wanted.description
    ]


def _prompts(benchmark: Benchmark, augmentation: str) -> str | None:
    """The digest of the prompts of a dataset, None for those of an augmentation that is not known."""
    if augmentation not in templates.AUGMENTATIONS:
        return None
    return prompts_digest(*templates.prompts(templates.templates(augmentation, benchmark.name), benchmark.classnames))


@dataclass
class Runs:
    """The runs on disk: complete records by cell, and the files that are no records; and what is wrong with classifiers
    that were kept."""

    cells: dict[Cell, dict[Hyperparameters, Record]] = field(default_factory=dict)
    damaged: list[Path] = field(default_factory=list)
    faults: list[Finding] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(map(len, self.cells.values()))


def runs(result_dir: str | Path) -> Runs:
    """Read all records, and the classifiers beside them."""
    found = Runs()
    named = {RECORD: [], heads.FILE: []}
    for entry in _below(Path(result_dir), []):
        if entry.name in named:
            named[entry.name].append(Path(entry.path))
    for path in sorted(named[RECORD]):
        try:
            record = read_record(path)
            require_grid(record, path)
            found.cells.setdefault(record.cell, {})[record.hyperparameters] = record
        except CannotOpen as error:
            found.faults.append(Finding(WRONG, str(error)))
        except UserError:
            found.damaged.append(path)
    for path in sorted(named[heads.FILE]):
        try:
            heads.read(path)
        except UserError as error:
            found.faults.append(Finding(WRONG, str(error)))
    return found


def report_runs(found: Runs, stored: dict[tuple[str, str], Stored], indices_dir: str | Path) -> list[Finding]:
    """How many there are, and those whose inputs are gone or have changed."""
    findings, gone, changed, again = [], [], [], []
    for cell, records in found.cells.items():
        place = stored.get((cell.encoder, cell.dataset))
        if place is None or not place.sources:
            gone.append(cell)
        elif _are_changed(cell, records.values(), place, indices_dir):
            (again if place.place.listing.exists() else changed).append(cell)
    if found.cells:
        incomplete = sum(selected(records) is None for records in found.cells.values())
        text = f"{counted(found.count, 'run')} of {counted(len(found.cells), 'cell')} (dataset, shots, seed, method)"
        findings.append(Finding(OK, text + f", {incomplete:,} of them incomplete" * bool(incomplete)))
    for cells, what in (
        (gone, "whose features are no longer there: tables are made of them, but none is trained further"),
        (changed, "on other features or splits than there are now: train.py refuses to go on with them"),
        (again, "on images, splits or class names that have changed: train.py trains them again"),
    ):
        if cells:
            named = list(dict.fromkeys(map(str, cells)))  # cells of several methods are called alike
            findings.append(Finding(NOTE, f"runs of {counted(len(cells), 'cell')} {what} ({first(named, len(named))})"))
    if found.damaged:
        named = first(found.damaged, len(found.damaged))
        findings.append(Finding(WRONG, f"not a run's record; remove and train again: {named}"))
    return findings + found.faults


def _are_changed(cell: Cell, records: Iterable[Record], place: Stored, indices_dir: str | Path) -> bool:
    """Whether runs of a cell were trained on other features, lists or another split than are there."""
    found = {part: {source.list_digest for source in place.of(part)} for part in PARTS}
    found["encoder"] = {source.encoder_digest for source in place.sources.values()}
    if cell.text_augmentation != templates.MINING:  # whose digest is that of the templates of its split
        name = f"text-layer_{cell.text_layer}/{cell.text_augmentation}"
        found["text"] = {place.sources[name].list_digest} if name in place.sources else set()
    path = split_path(indices_dir, cell.dataset, cell.shots, cell.seed, cell.max_val_shot)
    if (listing := stored_listing(place.place)) is not None:
        try:
            split = load_split(indices_dir, cell.dataset, cell.shots, cell.seed, cell.max_val_shot, listing.keys())
        except UserError:
            return True
        rows = {"train": split.train, "val": split.val, "test": None}
        found |= {part: {listing.split(part).digest(positions)} for part, positions in rows.items()}
    with suppress(CannotOpen):  # which is another finding
        found["split"] = {file_digest(path)} if path.exists() else set()
    inputs = (pair for record in records for pair in record.inputs.items())
    return any(digest not in found.get(name, {digest}) for name, digest in inputs)


def size_of(folder: Path) -> tuple[int, list[Path], list[Finding]]:
    """The bytes of all files below `folder`, linked ones too, temporary files, and folders that cannot be listed."""
    size, temporary, unlisted = 0, [], []
    for entry in _below(folder, unlisted):
        if files.is_folder(entry):
            continue
        with suppress(OSError):  # it may go while it is looked at
            size += entry.stat().st_size
            if entry.name.startswith(".") and (entry.name.endswith(".tmp") or entry.name.startswith(".scratch")):
                temporary.append(Path(entry.path))
    return size, sorted(temporary), unlisted


def _below(folder: Path, unlisted: list[Finding]) -> Iterator[os.DirEntry[str]]:
    """All entries below `folder`, none where it is none; folders that cannot be listed are added to `unlisted`."""

    def list_folder(path: str) -> list[os.DirEntry[str]]:
        try:
            return files.entries(path)
        except UserError as error:
            unlisted.append(Finding(WRONG, str(error)))
            return []

    return files.entries_below(folder, list_folder) if folder.exists() else iter(())


def _subfolders(folder: Path) -> list[Path]:
    """The folders in `folder`, by name; none where it is none, or cannot be listed, which `size_of` finds."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not is_skipped(path.name))
    except OSError:
        return []


def summary(feature_dir: str | Path, stored: list[Stored]) -> list[Finding]:
    """How many datasets have features of each encoder, and how large they are."""
    by_encoder: dict[str, list[str]] = {}
    for own in stored:
        by_encoder.setdefault(own.encoder, []).append(own.dataset)
    return [
        Finding(OK, f"{encoder}: {', '.join(names)}; {files.shown(size_of(Path(feature_dir) / encoder)[0])}")
        for encoder, names in by_encoder.items()
    ]
