"""From parsed arguments to a benchmark's features; errors list missing inputs and the commands that create them."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from engine import config
from engine.config import default
from engine.datasets.few_shot import MissingSplits
from engine.errors import UserError
from engine.esc.benchmark import EscBenchmark
from engine.esc.data import EscData, image_cells, read_folds
from engine.features.opened import OpenedFeatures
from engine.features.store import FeaturePaths, MissingFeatures
from engine.results.esc import SHOTS, SPLITS
from engine.tasks.images import ImageTasks, wanted_by

AUDIO_FEATURES = "cd audioclip && python audio_features.py"


def load(args: argparse.Namespace, benchmark: EscBenchmark, device: str) -> EscData:
    """Return the features of images, texts and sounds, in one bank on `device`.

    Raises UserError for missing features, with the commands that create all of them.
    """
    asked = {"dataset": [benchmark.dataset], "train_shot": list(SHOTS), "seed": list(SPLITS)}
    inputs = {"text_augmentation": ["classname"], "image_augmentation": "none", "clip_encoder": ["RN50"]}
    make_images = config.command("features.py", args, **asked, **inputs)
    images, folds, missing = None, None, []
    try:
        cells = image_cells(benchmark)
        images = ImageTasks(cells, OpenedFeatures(wanted_by(cells), args.feature_dir, args.indices_dir), "cpu")
    except MissingSplits as error:
        missing.append(_missing(error, config.command("few_shot_split.py", args, **error.wanted)))
        folder = FeaturePaths.of(args.feature_dir, benchmark.encoder, benchmark.dataset).folder
        if not folder.exists():  # otherwise, missing features are unknown without splits
            missing.append(_missing(f"no features in {folder}", make_images))
    except MissingFeatures as error:
        missing.append(_missing(error, make_images))
    try:
        folds = read_folds(benchmark, args.feature_dir)
    except MissingFeatures as error:
        missing.append(_missing(error, audio_command(args)))
    if missing:
        raise UserError("\n".join(missing))
    return EscData(benchmark, images, folds, device)


def audio_command(args: argparse.Namespace) -> str:
    """Return the command that extracts the features of sounds into `--feature_dir`, for a shell at the top folder."""
    if args.feature_dir == default.FEATURE_DIR:
        return AUDIO_FEATURES
    return f"{AUDIO_FEATURES} --feature_dir {shlex.quote(str(Path(args.feature_dir).absolute()))}"


def _missing(error: object, command: str) -> str:
    """Return a message with the command that creates missing inputs."""
    return f"{error}; create them with\n  {command}"
