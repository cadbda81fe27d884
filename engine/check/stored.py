"""Check features and runs on disk: their size, damaged files, and files whose inputs changed or no longer exist.

For features only headers are read; `features.py --verify` also reads the rows. For runs every record is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from engine import files, templates
from engine.check.findings import NOTE, OK, WRONG, Finding
from engine.clip import names
from engine.clip.weights import preprocessing_of
from engine.datasets.checks import list_preview, pluralize
from engine.datasets.few_shot import file_digest, load_split, split_path
from engine.datasets.image_dataset import SPLITS, ImageDataset
from engine.datasets.image_files import is_skipped
from engine.errors import UserError
from engine.features import audio
from engine.features.arrays import is_imported
from engine.features.listing import changes, listing_of, read_listing, stored_listing
from engine.features.mining import read_any_mined
from engine.features.prompts import prompts_digest, read_texts_provenance
from engine.features.store import BY_CONTENT, Bank, FeaturePaths, Provenance
from engine.files import CannotOpen
from engine.results import saved_classifiers
from engine.results.runs import RECORD, Cell, Record, read_record, require_grid, selected
from engine.training.grid import Hparams


@dataclass
class FeatureReport:
    """The features of a dataset under an encoder: the sources of their banks and prompts, by relative path."""

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
        """Return the sources in folders whose names begin with `start`: a split of a dataset, or `text`."""
        return {source for name, source in self.sources.items() if name.startswith(f"{start}-layer_")}


def list_folders(feature_dir: str | Path) -> list[tuple[str, str]]:
    """Return the encoders and datasets that have features, by the names of their folders."""
    return [
        (encoder.name, dataset.name) for encoder in _subfolders(Path(feature_dir)) for dataset in _subfolders(encoder)
    ]


def read_features(feature_dir: str | Path, encoder: str, dataset: str) -> FeatureReport:
    """Read the sources that the features of a dataset under an encoder record."""
    report = FeatureReport(FeaturePaths.of(feature_dir, encoder, dataset))
    root = report.place.folder
    if (encoder, dataset) == (audio.ENCODER, audio.DATASET):
        _add_source(report, "sounds-layer_0", lambda: _read_folds(root))
        return report
    for folder in _subfolders(root):
        for bank in _subfolders(folder):
            _add_source(report, f"{folder.name}/{bank.name}", partial(_read_bank, bank, report))
        for path in sorted(folder.glob("*.safetensors")):
            _add_source(report, f"{folder.name}/{path.stem}", partial(read_texts_provenance, path))
    readers = dict.fromkeys(sorted(root.glob(report.place.mined("*").name)), read_any_mined)
    for path, read in {**readers, report.place: read_listing}.items():
        try:
            read(path)
        except UserError as error:
            report.faults.append(Finding(WRONG, str(error)))
    return report


def _add_source(report: FeatureReport, name: str, read: Callable[[], Provenance | None]) -> None:
    """Add the source that `read` returns to the report, or a fault if it raises."""
    try:
        source = read()
    except Exception as error:  # a damaged file may raise anything
        report.faults.append(Finding(WRONG, str(error)))
        return
    if source is not None:
        report.sources[name] = source


def _read_bank(folder: Path, report: FeatureReport) -> Provenance | None:
    """Return the source of a bank. A test set is always extracted whole: fewer rows mean an interrupted run."""
    bank = Bank(folder)
    if bank.provenance is not None and folder.parent.name.startswith("test-") and len(bank) < bank.provenance.length:
        text = f"{folder} has {len(bank)} of {bank.provenance.length} test images; to complete it, run features.py"
        report.faults.append(Finding(NOTE, text))
    return bank.provenance


def _read_folds(folder: Path) -> audio.AudioProvenance | None:
    """Return the source of the features of sounds."""
    numbers = sorted(int(path.stem.removeprefix("fold_")) for path in folder.glob("fold_*.safetensors"))
    return audio.read_folds(folder, numbers)[numbers[0]].provenance if numbers else None


def find_stale(
    report: FeatureReport, weights: str | None, dataset: ImageDataset | None, sounds: str | None
) -> list[Finding]:
    """Return findings on features made with other `weights` (a digest) or from another list than the installed ones.

    `sounds` is the digest of ESC-50's list. None means unknown.
    """
    reasons = []
    made_by = {source.encoder_digest for source in report.sources.values()}
    if len(made_by) > 1:
        reasons.append("some were made with other weights than the rest")
    elif weights and made_by - {weights}:
        reasons.append(f"made with other weights ({made_by.pop()[:12]}) than those on this machine ({weights[:12]})")
    reasons += _describe_other_preprocessing(report)
    wanted, now, changed = {"sounds": sounds}, dataset and listing_of(dataset), []
    then = stored_listing(report.place)
    if now is not None and then is not None:
        kinds = changes(then, now)
        changed = [f"{', '.join(kinds)} since its features were made; features.py makes these again"] if kinds else []
    elif dataset is not None:
        wanted |= {split: BY_CONTENT if now else dataset.digest(split) for split in SPLITS if report.of(split)}
    for split, digest in wanted.items():
        if digest and any(source.list_digest != digest for source in report.of(split)):
            reasons.append(f"{split} features of another list than the installed one")
    is_renamed = now is not None and then is not None and then.classnames != now.classnames  # reported by `changes`
    is_known = dataset is not None and not is_renamed and not is_imported(report.place)  # imported prompts may be any
    for name, source in report.sources.items() if is_known else ():
        if name.startswith("text-") and _digest_prompts(dataset, Path(name).name) not in (None, source.list_digest):
            text = f"{name}: other prompts or class names than the dataset's"
            changed.append(f"{text}; features.py makes these again") if now else reasons.append(text)
    return [
        Finding(WRONG, f"{report.place.folder}: {reason}; remove the old features, and make them again")
        for reason in reasons
    ] + [Finding(WRONG, f"{report.place.folder}: {text}") for text in changed]


def _describe_other_preprocessing(report: FeatureReport) -> list[str]:
    """Describe features of images that were not preprocessed as their encoder requires (earlier versions made some)."""
    name, _ = names.parse_folder(report.encoder)
    wanted = preprocessing_of(name)
    made = {source.preprocessing for split in SPLITS for source in report.of(split)}
    return [
        f"made from images with another preprocessing ({other}) than {name} requires ({wanted.description})"
        for other in sorted(made)
        if wanted is not None and other != wanted.description
    ]


def _digest_prompts(dataset: ImageDataset, augmentation: str) -> str | None:
    """Return the digest of a dataset's prompts, None for an unknown augmentation."""
    if augmentation not in templates.AUGMENTATIONS:
        return None
    return prompts_digest(*templates.prompts(templates.templates(augmentation, dataset.name), dataset.classnames))


@dataclass
class RunReport:
    """The runs on disk: complete records by cell, damaged record files, and faults of saved classifiers."""

    cells: dict[Cell, dict[Hparams, Record]] = field(default_factory=dict)
    damaged: list[Path] = field(default_factory=list)
    faults: list[Finding] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(map(len, self.cells.values()))


def read_runs(result_dir: str | Path) -> RunReport:
    """Read all records, and the classifiers beside them."""
    found = RunReport()
    named = {RECORD: [], saved_classifiers.FILE: []}
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
    for path in sorted(named[saved_classifiers.FILE]):
        try:
            saved_classifiers.read(path)
        except UserError as error:
            found.faults.append(Finding(WRONG, str(error)))
    return found


def report_runs(
    found: RunReport, features: dict[tuple[str, str], FeatureReport], indices_dir: str | Path
) -> list[Finding]:
    """Return the number of runs, and findings on those whose inputs are missing or have changed."""
    findings, gone, changed, again = [], [], [], []
    for cell, records in found.cells.items():
        report = features.get((cell.encoder, cell.dataset))
        if report is None or not report.sources:
            gone.append(cell)
        elif _inputs_changed(cell, records.values(), report, indices_dir):
            (again if report.place.listing.exists() else changed).append(cell)
    if found.cells:
        incomplete = sum(selected(records) is None for records in found.cells.values())
        text = (
            f"{pluralize(found.count, 'run')} of {pluralize(len(found.cells), 'cell')} (dataset, shots, seed, method)"
        )
        findings.append(Finding(OK, text + f", {incomplete:,} of them incomplete" * bool(incomplete)))
    for cells, state in (
        (gone, "whose features no longer exist: tables include them, but they cannot be trained further"),
        (changed, "on other features or few-shot splits than the current ones: train.py refuses to resume them"),
        (again, "on images, few-shot splits or class names that have changed: train.py trains them again"),
    ):
        if cells:
            named = list(dict.fromkeys(map(str, cells)))  # cells of several methods have the same name
            findings.append(Finding(NOTE, f"runs of {pluralize(len(cells), 'cell')} {state} ({list_preview(named)})"))
    if found.damaged:
        named = list_preview(found.damaged)
        findings.append(Finding(WRONG, f"not a run's record; remove it and train again: {named}"))
    return findings + found.faults


def _inputs_changed(cell: Cell, records: Iterable[Record], report: FeatureReport, indices_dir: str | Path) -> bool:
    """Return whether runs of a cell used other features, lists or another few-shot split than the current ones."""
    found = {split: {source.list_digest for source in report.of(split)} for split in SPLITS}
    found["encoder"] = {source.encoder_digest for source in report.sources.values()}
    if cell.text_augmentation != templates.MINING:  # mined templates have a digest per few-shot split
        name = f"text-layer_{cell.text_layer}/{cell.text_augmentation}"
        found["text"] = {report.sources[name].list_digest} if name in report.sources else set()
    path = split_path(indices_dir, cell.dataset, cell.shots, cell.seed, cell.max_val_shot)
    if (listing := stored_listing(report.place)) is not None:
        try:
            few_shot = load_split(indices_dir, cell.dataset, cell.shots, cell.seed, cell.max_val_shot, listing.keys())
        except UserError:
            return True
        rows = {"train": few_shot.train, "val": few_shot.val, "test": None}
        found |= {split: {listing.split(split).digest(positions)} for split, positions in rows.items()}
    with suppress(CannotOpen):  # reported by another finding
        found["split"] = {file_digest(path)} if path.exists() else set()
    inputs = (pair for record in records for pair in record.inputs.items())
    return any(digest not in found.get(name, {digest}) for name, digest in inputs)


def size_of(folder: Path) -> tuple[int, list[Path], list[Finding]]:
    """Return the bytes of all files below `folder`, links followed, its temporary files, and unlistable folders."""
    size, temporary, unlisted = 0, [], []
    for entry in _below(folder, unlisted):
        if files.is_folder(entry):
            continue
        with suppress(OSError):  # the file may disappear meanwhile
            size += entry.stat().st_size
            if entry.name.startswith(".") and (entry.name.endswith(".tmp") or entry.name.startswith(".scratch")):
                temporary.append(Path(entry.path))
    return size, sorted(temporary), unlisted


def _below(folder: Path, unlisted: list[Finding]) -> Iterator[os.DirEntry[str]]:
    """Yield all entries below `folder`, none if it does not exist; add folders that cannot be listed to `unlisted`."""

    def list_folder(path: str) -> list[os.DirEntry[str]]:
        try:
            return files.entries(path)
        except UserError as error:
            unlisted.append(Finding(WRONG, str(error)))
            return []

    return files.entries_below(folder, list_folder) if folder.exists() else iter(())


def _subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, by name; none if it does not exist or cannot be listed (`size_of` reports it)."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not is_skipped(path.name))
    except OSError:
        return []


def summarize(feature_dir: str | Path, reports: list[FeatureReport]) -> list[Finding]:
    """Return the datasets with features of each encoder, and the size of these."""
    by_encoder: dict[str, list[str]] = {}
    for report in reports:
        by_encoder.setdefault(report.encoder, []).append(report.dataset)
    return [
        Finding(OK, f"{encoder}: {', '.join(names)}; {files.format_bytes(size_of(Path(feature_dir) / encoder)[0])}")
        for encoder, names in by_encoder.items()
    ]
