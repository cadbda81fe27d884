"""The classifier of a selected run as it is saved: its tensors, and the calibration of its probabilities."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from engine.calibration import Calibration, calibrate, confidences
from engine.model import LinearClassifier
from engine.results.runs import TRAINED, WISEFT, Record
from engine.results.saved_classifiers import FeatureExtraction, SavedClassifier, tensors_to_save
from engine.training.evaluate import val_logits
from engine.training.task import Task


def to_save(
    task: Task,
    classifiers: Mapping[str, LinearClassifier],
    record: Record,
    extraction: FeatureExtraction | None,
    classnames: list[str],
) -> SavedClassifier:
    """Return a run's classifiers, `trained` and, if any, `wiseft`, each calibrated on the task's validation images."""
    labels = task.val.labels.cpu().numpy()
    found, sorted_confidences = {}, {}
    for name, classifier in classifiers.items():
        logits = val_logits(task, classifier).numpy()
        found[name] = calibrate(logits, labels)
        ascending = np.sort(confidences(logits, found[name].temperature)).astype(np.float32)
        sorted_confidences[name] = torch.from_numpy(ascending)
    tensors = tensors_to_save(classifiers[TRAINED].state_dict(), task.zeroshot)
    return SavedClassifier(extraction, classnames, record, tensors, calibrations=found, confidences=sorted_confidences)


def describe_calibration(calibrations: Mapping[str, Calibration]) -> str:
    """Return one line about the temperatures of a saved classifier and its WiSE-FT."""
    trained = calibrations[TRAINED]
    if trained.reason:
        line = f"probabilities are not calibrated: {trained.reason}"
    else:
        line = (
            f"probabilities are calibrated on {trained.images} validation images: temperature {trained.temperature:.3g}"
        )
    wiseft = calibrations.get(WISEFT, trained)
    if wiseft.temperature != trained.temperature:
        line += f"; WiSE-FT: temperature {wiseft.temperature:.3g}"
    return line
