"""Check Python, its libraries, cores and GPUs, and the weights of encoders."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

from engine import files, released
from engine.check.findings import NOTE, OK, WRONG, Finding
from engine.clip import names
from engine.cluster import slurm
from engine.errors import UserError

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"
PYTHON = (3, 11)
"""The oldest version that works."""
IMPORTED = ("torch", "torchvision", "open_clip")
"""Libraries to import, not only to look up: a torchvision built for another torch is installed but fails."""


def check_libraries() -> tuple[list[Finding], bool]:
    """Check Python and requirements.txt; also return whether torch and others import, as further checks require."""
    faults = [f"Python {platform.python_version()} is too old"] if sys.version_info < PYTHON else []
    faults += _requirements()
    failures = list(filter(None, map(_import_failure, IMPORTED)))
    faults = faults or failures  # a missing library also fails to import
    if faults:
        remedy = "run `pip install -r requirements.txt`"
        return [Finding(WRONG, f"{fault}; {remedy}") for fault in faults], not failures
    versions = ", ".join(f"{name} {sys.modules[name].__version__}" for name in IMPORTED)
    found = f"Python {platform.python_version()}, {versions}, and all else in requirements.txt"
    return [Finding(OK, found)], True


def _requirements() -> list[str]:
    """Return the packages of requirements.txt that are missing or have the wrong version."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [f"{sys.executable} lacks most packages of requirements.txt"]
    lines = (line.split("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    missing, faults = [], []
    for wanted in (Requirement(line) for line in lines if line):
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(wanted.name)
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            faults.append(f"{wanted.name} is {version}, but requirements.txt requires {wanted.specifier}")
    return [f"not installed: {', '.join(missing)}", *faults] if missing else faults


def _import_failure(name: str) -> str | None:
    """Return why a library cannot be imported; None if it can."""
    try:
        importlib.import_module(name)
    except Exception as error:  # a damaged library, or one built for another torch, may raise anything
        reason = (str(error).strip().splitlines() or [""])[0]
        return f"`import {name}` fails ({type(error).__name__}: {reason}); do the library versions match?"
    return None


def check_devices() -> list[Finding]:
    """Return cores, memory and GPUs, as torch reports them, and whether Slurm is missing."""
    import torch

    from engine import memory

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [f"{cores} CPU cores, {files.format_bytes(memory.free('cpu'))} of memory free"]
    try:
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            found.append(f"cuda:{number} {name}, {files.format_bytes(free)} of {files.format_bytes(total)} free")
    except RuntimeError as error:  # an old driver, a lost GPU
        return [Finding(OK, found[0]), Finding(WRONG, f"a GPU cannot be used: {str(error).splitlines()[0]}")]
    if len(found) == 1:
        found[0] += "; no GPU" + ("" if torch.version.cuda else " (this torch is built without CUDA)")
    found[0] += "" if slurm.is_installed() else "; no Slurm"
    return [Finding(OK, text) for text in found]


def check_slurm() -> list[Finding]:
    """Return what is known of Slurm; nothing where it is not installed."""
    try:
        return [Finding(OK, slurm.describe())] if slurm.is_installed() else []
    except UserError as error:
        return [Finding(NOTE, f"Slurm is installed, but does not work: {error}")]


def check_encoders(
    requested: list[str] | None, weights: str | None, stored: set[str]
) -> tuple[list[Finding], dict[str, str]]:
    """Check which weights are on this machine; also return the digests of loaded weights, by folder of the store.

    `requested` encoders must exist and fit. Encoders with features in the store (`stored` are its folders) are loaded
    too, to compare their weights with the features. Nothing is downloaded.
    """
    from engine.clip import load
    from engine.clip import weights as weights_of
    from engine.demo import audio_encoder

    present, absent, wrong, digests = [], [], [], {}
    for name in requested or [*names.DEMO, *names.OPENAI]:
        folder = names.folder(name, weights)
        try:
            place = weights_of.locate(name, weights)
            if place.file is None and requested:
                raise UserError(f"{name}: its weights are not on this machine. {place.instructions}")
            if place.file is None:
                absent.append(name)
                continue
            if requested or folder in stored:
                digests[folder] = load.load_encoder(name, weights).digest
            elif name in names.DEMO and not weights:
                released.check_demo(Path(place.file))
            present.append(name if name in names.DEMO and not weights else f"{name} ({place.file})")
        except Exception as error:  # a damaged file may raise anything
            wrong.append(Finding(WRONG, str(error) or type(error).__name__))
    try:
        released.check_demo(audio_encoder.PATH)
    except (UserError, OSError) as error:
        wrong.append(Finding(WRONG, str(error)))
    findings = [Finding(OK, f"weights on this machine: {', '.join(present)}")] if present else []
    if absent:
        findings.append(Finding(NOTE, f"weights that are downloaded on first use: {', '.join(absent)}"))
    return findings + wrong, digests
