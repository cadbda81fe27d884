"""The sections of a check, in order. If libraries fail to import, only datasets and sounds are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine import datasets, files
from engine.check import installed, machine
from engine.check.findings import WRONG, Finding, note_temporary
from engine.check.installed import DatasetReport
from engine.clip import names
from engine.config import default

Section = tuple[str, list[Finding]]
TABLES = default.EVAL_DIR, default.AVG_DIR, default.ESC_RESULT_DIR, default.REPORT_DIR


@dataclass(frozen=True)
class CheckOptions:
    """The scope of a check. Named datasets and encoders must exist; None means all, and some may be missing."""

    datasets: list[str] | None
    encoders: list[str] | None
    weights: str | None
    data_dir: str
    indices_dir: str
    feature_dir: str
    result_dir: str


def installation(options: CheckOptions) -> Iterator[Section]:
    """Yield all sections, each as soon as it is complete."""
    libraries, works = machine.check_libraries()
    yield "this machine", libraries + (machine.check_devices() if works else []) + machine.check_slurm()
    digests: dict[str, str] = {}
    if works:
        from engine.check import stored

        pairs = stored.list_folders(options.feature_dir)
        found, digests = machine.check_encoders(options.encoders, options.weights, {encoder for encoder, _ in pairs})
        yield "encoders", found
    reports = inspect_datasets(options)
    yield dataset_section(options, reports)
    sounds_digest = None
    if not options.datasets:
        found, sounds_digest = installed.check_sounds(Path(options.data_dir) / "ESC-50-master")
        yield "sounds, for ImageNet-ESC alone", found
    if works:
        yield from disk_sections(options, pairs, reports, digests, sounds_digest)


def inspect_datasets(options: CheckOptions) -> list[DatasetReport]:
    """Return a report on each dataset."""
    wanted = options.datasets or datasets.names()
    return [installed.inspect_dataset(name, options.data_dir, options.indices_dir) for name in dict.fromkeys(wanted)]


def dataset_section(options: CheckOptions, reports: list[DatasetReport]) -> Section:
    """Return the section on datasets and their few-shot splits."""
    findings = installed.summarize(reports, options.data_dir, bool(options.datasets))
    findings += installed.check_splits([report.name for report in reports], options.indices_dir)
    findings += note_temporary(installed.temporary_files(reports, options.data_dir, options.indices_dir))
    return f"datasets in {options.data_dir}, few-shot splits in {options.indices_dir}", findings


def disk_sections(
    options: CheckOptions,
    pairs: Iterable[tuple[str, str]],
    reports: list[DatasetReport],
    weights: dict[str, str],
    sounds_digest: str | None,
) -> Iterator[Section]:
    """Yield the sections on the features, runs and tables selected by `options`.

    `pairs` are the encoders and datasets with features, `weights` the encoders' digests, `sounds_digest` ESC-50's.
    """
    from engine.check import stored

    encoders = [names.folder(name, options.weights) for name in options.encoders or ()]
    loaded = {report.name: report.dataset for report in reports if report.fault is None}

    def is_selected(encoder: str, dataset: str) -> bool:
        return (not encoders or encoder in encoders) and (not options.datasets or dataset in options.datasets)

    features = {pair: stored.read_features(options.feature_dir, *pair) for pair in pairs if is_selected(*pair)}
    findings = stored.summarize(options.feature_dir, list(features.values()))
    for report in features.values():
        known = weights.get(report.encoder), loaded.get(report.dataset), sounds_digest
        check = partial(stored.find_stale, report, *known)
        findings += report.faults + _run_guarded(str(report.place.folder), check)
    yield _folder_section("features", options.feature_dir, findings)
    runs = stored.read_runs(options.result_dir)
    runs.cells = {cell: grid for cell, grid in runs.cells.items() if is_selected(cell.encoder, cell.dataset)}
    findings = _run_guarded(options.result_dir, lambda: stored.report_runs(runs, features, options.indices_dir))
    yield _folder_section("runs", options.result_dir, findings)
    tables = [path for folder in TABLES for path in stored.size_of(Path(folder))[1]]
    if tables:
        yield "tables", note_temporary(tables)


def _run_guarded(subject: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Return the findings of `check`, or a finding that it failed: headers and records may contain anything."""
    try:
        return check()
    except Exception as error:
        return [Finding(WRONG, f"{subject} cannot be checked ({type(error).__name__}: {error})")]


def _folder_section(title: str, folder: str, findings: list[Finding]) -> Section:
    """Return the section on a folder, with its size and its temporary files."""
    from engine.check import stored

    size, temporary, unlisted = stored.size_of(Path(folder))
    return f"{title} in {folder}: {files.format_bytes(size)}", findings + note_temporary(temporary) + unlisted
