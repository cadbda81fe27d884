"""Records of runs for tests of tables, written without training: cells are named as their folders are."""

import random
import re

from engine.results.runs import Accuracy, Cell, Record, Shifted, write_record
from engine.training.grid import Hyperparameters

CROSS, UNI, UNI_ZEROSHOT = "cross_modal-linear_zeroshot", "uni_modal-linear_random", "uni_modal-linear_zeroshot"
LINEAR, PARTIAL = "logit_4.60517-linear", "logit_4.0-partial"
POINTS = [Hyperparameters(1e-3, 0.0, 32), Hyperparameters(1e-4, 0.01, 8)]
"""The grid of all methods for tests that use the fixture `short_grids`; small cells admit the second point alone."""


def cell_of(dataset, shots, seed, features, method, settings):
    """The cell whose runs lie in `<dataset>-shot_<s>-seed_<k>/<features>/<method>/<settings>`."""
    encoder, image, text, prompts, images, views = re.fullmatch(
        r"(.+)-image_(-?\d+)-text_(-?\d+)-(\w+)-(\w+)_(\d+)", features
    ).groups()
    modality, head, init = re.fullmatch(r"(\w+)-(\w+)_(\w+)", method).groups()
    logit, grid, _, steps = re.fullmatch(r"logit_([\d.]+)-(\w+)(-iter_(\d+))?", settings).groups()
    layers = int(image), int(text)
    named = (
        dataset,
        shots,
        seed,
        encoder,
        *layers,
        prompts,
        images,
        int(views),
        modality,
        head,
        init,
        float(logit),
        grid,
    )
    return Cell(*named, **({"max_iter": int(steps)} if steps else {}))


def write_cell(root, cell, points=2, shifts=(), **changes):
    """Records of a complete grid: accuracies are random, of the cell alone; the second point is selected and tested.

    `shifts` are the test-only datasets it was tested on. `changes` are fields of all its records.
    """
    draw = random.Random(repr(cell))
    for k, point in enumerate(POINTS[-points:], start=1):
        best = k == points
        shifted = {name: Shifted("d", draw.random(), draw.random(), draw.random()) for name in shifts if best}
        trained, wiseft = (Accuracy(k / 2 - draw.random() / 4, draw.random() if best else None) for _ in range(2))
        fields = {
            "inputs": {"encoder": cell.encoder},
            "step": 100 * k,
            "trained": trained,
            "wiseft": wiseft,
            "zeroshot": Accuracy(0.5, random.Random(cell.dataset).random() if best else None),
            "seconds": draw.random(),
            "versions": {"torch": "2"},
            "shifted": shifted,
        }
        record = Record(cell=cell, hyperparameters=point, grid=POINTS[-points:], **fields | changes)
        write_record(record, root)
