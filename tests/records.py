"""Records of runs for tests of tables, written without training: cells are named as their folders are."""

import dataclasses
import random
import re

from engine.results.runs import TEST, TRAINED, VAL, WISEFT, ZEROSHOT, Cell, Record, write_record
from engine.training.grid import Grid, Hparams

CROSS, UNI, UNI_ZEROSHOT = "cross_modal-linear_zeroshot", "uni_modal-linear_random", "uni_modal-linear_zeroshot"
LINEAR, PARTIAL = "logit_4.60517-linear", "logit_4.0-partial"
POINTS = [Hparams(lr=1e-3, weight_decay=0.0, batch_size=32), Hparams(lr=1e-4, weight_decay=0.01, batch_size=8)]
"""The grid of all methods for tests that use the fixture `short_grids`; small cells admit the second point alone."""


class Short(Grid):
    """`POINTS` in place of all products of their values."""

    def __init__(self):
        super().__init__(**{name: tuple(point[name] for point in POINTS) for name in POINTS[0]})

    def __iter__(self):
        return iter(POINTS)


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
    """Records of a complete grid: accuracies are random, of the cell alone; the last point is selected and tested.

    The grid is one point for methods without hyper-parameters. `shifts` are the test-only datasets it was tested on.
    `changes` are fields of all its records.
    """
    draw = random.Random(repr(cell))
    grid = POINTS[-points:] if cell.grid.axes else [Hparams()]
    for k, point in enumerate(grid, start=1):
        best = k == len(grid)
        tests = [TEST, *shifts] if best else []
        accuracies = {TRAINED: {VAL: k / 2 - draw.random() / 4}, WISEFT: {VAL: draw.random()}, ZEROSHOT: {VAL: 0.5}}
        for name, found in accuracies.items():
            of_all = random.Random(cell.dataset) if name == ZEROSHOT else draw
            # of few digits, so that means are not half way between two numbers of two digits
            found |= {of: round(of_all.random(), 3) for of in tests}
        fields = {
            "inputs": {"encoder": cell.encoder},
            "step": 100 * k,
            "accuracies": accuracies,
            "seconds": draw.random(),
            "versions": {"torch": "2"},
            "shifted": dict.fromkeys(shifts, "d") if best else {},
        }
        record = Record(cell=cell, hyperparameters=point, grid=grid, **fields | changes)
        write_record(record, root)


def with_accuracies(record, classifier, **found):
    """A record with other accuracies of a classifier, by set."""
    own = record.accuracies[classifier] | found
    return dataclasses.replace(record, accuracies=record.accuracies | {classifier: own})
