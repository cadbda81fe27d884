"""From parsed arguments to a loaded classifier and a threshold, for predict.py."""

from __future__ import annotations

import argparse
import math

from engine import classifier, config
from engine.config import commands
from engine.errors import UserError
from engine.results.runs import RATIOS
from engine.results.saved_classifiers import MissingClassifier


def load(args: argparse.Namespace) -> classifier.ImageClassifier:
    """Return the classifier of --run, on --device. Raises UserError, with the command that saves a missing one."""
    how = {"weights": args.clip_weights, "wise_ft": args.wise_ft, "raw": args.raw, "device": config.device(args)}
    try:
        return classifier.load(args.run, **how)
    except MissingClassifier as error:
        raise UserError(commands.missing_classifier(args, error)) from error


def threshold(args: argparse.Namespace, loaded: classifier.ImageClassifier) -> tuple[float | None, str]:
    """Return the threshold of --reject and a note about it, or None and no note without --reject."""
    if args.reject is None:
        calibrated = args.raw or args.wise_ft in RATIOS.values()
        return None, "" if calibrated else f"note: the probabilities of --wise_ft {args.wise_ft} are not calibrated"
    try:
        found = loaded.threshold(args.reject)
    except ValueError as error:
        raise UserError(f"{args.run}: --reject cannot be used: {error}") from error
    below, images = int((loaded.confidences < found).sum()), len(loaded.confidences)
    which = f"images with a top probability below {found:.6f}" if math.isfinite(found) else "all images"
    return found, f"rejected: {which}, as {below} of {images} validation images"
