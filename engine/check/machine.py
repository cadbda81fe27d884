"""Python, its libraries, cores and GPUs, and the weights of encoders."""

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
from engine.errors import UserError

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"
PYTHON = (3, 11)
"""The oldest that works."""
IMPORTED = ("torch", "torchvision", "open_clip")
"""What is imported for good: a torchvision that belongs to another torch is installed like any other, and fails."""


def libraries() -> tuple[list[Finding], bool]:
    """Python and what requirements.txt asks for, and whether all else can be looked at: torch and the like import."""
    faults = [f"Python {platform.python_version()} is too old"] if sys.version_info < PYTHON else []
    faults += _requirements()
    failures = list(filter(None, map(_import_failure, IMPORTED)))
    faults = faults or failures  # what is not installed fails to be imported
    if faults:
        remedy = "`pip install -r requirements.txt` mends it"
        return [Finding(WRONG, f"{fault}; {remedy}") for fault in faults], not failures
    versions = ", ".join(f"{name} {sys.modules[name].__version__}" for name in IMPORTED)
    found = f"Python {platform.python_version()}, {versions}, and all else in requirements.txt"
    return [Finding(OK, found)], True


def _requirements() -> list[str]:
    """What is missing of requirements.txt, or has a version that it does not allow."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [f"{sys.executable} has hardly anything of requirements.txt"]
    lines = (line.split("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    missing, faults = [], []
    for wanted in (Requirement(line) for line in lines if line):
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(wanted.name)
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            faults.append(f"{wanted.name} is {version}, and requirements.txt wants {wanted.specifier}")
    return [f"not installed: {', '.join(missing)}", *faults] if missing else faults


def _import_failure(name: str) -> str | None:
    """Why a library cannot be imported; None if it can."""
    try:
        importlib.import_module(name)
    except Exception as error:  # a library that is half there, or belongs to another torch, fails in any way
        said = (str(error).strip().splitlines() or [""])[0]
        return f"`import {name}` fails ({type(error).__name__}: {said}): do the libraries fit together?"
    return None


def device() -> list[Finding]:
    """Cores, memory and GPUs, as torch sees them."""
    import torch

    from engine import memory

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [f"{cores} CPU cores, {files.shown(memory.free('cpu'))} of memory free"]
    try:
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            found.append(f"cuda:{number} {name}, {files.shown(free)} of {files.shown(total)} free")
    except RuntimeError as error:  # a driver that is too old, a GPU that is lost
        return [Finding(OK, found[0]), Finding(WRONG, f"a GPU cannot be used: {str(error).splitlines()[0]}")]
    if len(found) == 1:
        found[0] += "; no GPU" + ("" if torch.version.cuda else " (this torch is built without CUDA)")
    return [Finding(OK, text) for text in found]


def encoders(asked: list[str] | None, weights: str | None, stored: set[str]) -> tuple[list[Finding], dict[str, str]]:
    """Which weights are on this machine, and by folder of the store the digest of those that were loaded.

    Those that were `asked` for must be there and fit; those with features in the store (`stored` are its folders) are
    loaded too, to know whether they made them. Nothing is downloaded.
    """
    from engine.clip import load
    from engine.clip import weights as weights_of
    from engine.demo import hearing

    there, absent, wrong, digests = [], [], [], {}
    for name in asked or [*names.DEMO, *names.OPENAI]:
        folder = names.folder(name, weights)
        try:
            place = weights_of.locate(name, weights)
            if place.file is None and asked:
                raise UserError(f"{name}: its weights are not on this machine. {place.instructions}")
            if place.file is None:
                absent.append(name)
                continue
            if asked or folder in stored:
                digests[folder] = load.load_encoder(name, weights).digest
            elif name in names.DEMO and not weights:
                released.check_demo(Path(place.file))
            there.append(name if name in names.DEMO and not weights else f"{name} ({place.file})")
        except Exception as error:  # whatever a damaged file leads to
            wrong.append(Finding(WRONG, str(error) or type(error).__name__))
    try:
        released.check_demo(hearing.PATH)
    except (UserError, OSError) as error:
        wrong.append(Finding(WRONG, str(error)))
    findings = [Finding(OK, f"weights are here of {', '.join(there)}")] if there else []
    if absent:
        findings.append(Finding(NOTE, f"weights are yet to be downloaded, when first used, of {', '.join(absent)}"))
    return findings + wrong, digests
