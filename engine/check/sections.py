"""The sections of a check, in order. Without libraries that work, datasets and sounds can be looked at alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine import datasets, files
from engine.check import installed, machine
from engine.check.findings import WRONG, Finding, left_over
from engine.check.installed import DatasetReport
from engine.clip import names
from engine.config import default

Section = tuple[str, list[Finding]]
TABLES = default.EVAL_DIR, default.AVG_DIR, default.ESC_RESULT_DIR


@dataclass(frozen=True)
class CheckOptions:
    """What to look at. Datasets and encoders that are named must be there; None: all, of which some may be missing."""

    datasets: list[str] | None
    encoders: list[str] | None
    weights: str | None
    data_dir: str
    indices_dir: str
    feature_dir: str
    result_dir: str


def installation(asked: CheckOptions) -> Iterator[Section]:
    """Everything. Each section is given as soon as it is known."""
    libraries, works = machine.libraries()
    yield "this machine", libraries + (machine.device() if works else [])
    digests: dict[str, str] = {}
    if works:
        from engine.check import stored

        pairs = stored.folders(asked.feature_dir)
        found, digests = machine.encoders(asked.encoders, asked.weights, {encoder for encoder, _ in pairs})
        yield "encoders", found
    judged = inspect_datasets(asked)
    yield dataset_section(asked, judged)
    heard = None
    if not asked.datasets:
        found, heard = installed.sounds(Path(asked.data_dir) / "ESC-50-master")
        yield "sounds, for ImageNet-ESC alone", found
    if works:
        yield from on_disk(asked, pairs, judged, digests, heard)


def inspect_datasets(asked: CheckOptions) -> list[DatasetReport]:
    """Look at the datasets."""
    wanted = asked.datasets or datasets.names()
    return [installed.judge(name, asked.data_dir, asked.indices_dir) for name in dict.fromkeys(wanted)]


def dataset_section(asked: CheckOptions, judged: list[DatasetReport]) -> Section:
    """The section of datasets and of their few-shot splits."""
    findings = installed.report(judged, asked.data_dir, bool(asked.datasets))
    findings += installed.splits([own.name for own in judged], asked.indices_dir)
    findings += left_over(installed.temporary_files(judged, asked.data_dir, asked.indices_dir))
    return f"datasets in {asked.data_dir}, few-shot splits in {asked.indices_dir}", findings


def on_disk(
    asked: CheckOptions,
    pairs: Iterable[tuple[str, str]],
    judged: list[DatasetReport],
    weights: dict[str, str],
    heard: str | None,
) -> Iterator[Section]:
    """Features and runs, of what is asked for.

    `pairs` are the encoders and datasets that have features, `weights` digests by encoder, `heard` that of ESC-50.
    """
    from engine.check import stored

    encoders = [names.folder(name, asked.weights) for name in asked.encoders or ()]
    benchmarks = {own.name: own.benchmark for own in judged if own.fault is None}

    def is_asked(encoder: str, dataset: str) -> bool:
        return (not encoders or encoder in encoders) and (not asked.datasets or dataset in asked.datasets)

    places = {pair: stored.features(asked.feature_dir, *pair) for pair in pairs if is_asked(*pair)}
    findings = stored.summary(asked.feature_dir, list(places.values()))
    for own in places.values():
        known = weights.get(own.encoder), benchmarks.get(own.dataset), heard
        findings += own.faults + _guarded(str(own.place.folder), lambda own=own, known=known: stored.stale(own, *known))
    yield _folder("features", asked.feature_dir, findings)
    runs = stored.runs(asked.result_dir)
    runs.cells = {cell: own for cell, own in runs.cells.items() if is_asked(cell.encoder, cell.dataset)}
    findings = _guarded(asked.result_dir, lambda: stored.report_runs(runs, places, asked.indices_dir))
    yield _folder("runs", asked.result_dir, findings)
    tables = [path for folder in TABLES for path in stored.size_of(Path(folder))[1]]
    if tables:
        yield "tables", left_over(tables)


def _guarded(what: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """What `look` finds; a finding as well if that fails, as headers and records may hold anything."""
    try:
        return look()
    except Exception as error:
        return [Finding(WRONG, f"{what} cannot be looked at ({type(error).__name__}: {error})")]


def _folder(what: str, folder: str, findings: list[Finding]) -> Section:
    """The section of a folder, with its size and the temporary files in it."""
    from engine.check import stored

    size, temporary, unlisted = stored.size_of(Path(folder))
    return f"{what} in {folder}: {files.format_bytes(size)}", findings + left_over(temporary) + unlisted
