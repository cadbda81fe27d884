"""Records of ImageNet-ESC: files that grow, and what is made of them."""

import json

import pytest

from engine.errors import UserError
from engine.results import esc
from engine.results.esc import AUDIO, EscRun, add_runs, mean_and_deviation, read_runs, runs_path, score, wins

PLACE = ("image", 19, 1)
PAIRS = [(split, draw) for split in esc.SPLITS for draw in esc.DRAWS]


def probe(method, pair, vals=None, test=0.5):
    """The grid of a probe: validation accuracies by position in the grid, every run tested with its own accuracy."""
    vals = vals or {}
    return [
        EscRun("image", 19, *pair, 1, method, point, {"images": "d"}, vals.get(k, 0.1), test - k / 100)
        for k, point in enumerate(AUDIO)
    ]


def test_files_grow_and_give_back_what_they_were_given(tmp_path):
    first, second = probe(esc.UNI_MODAL, (1, 1)), probe(esc.UNI_MODAL, (1, 2))
    zeroshot = EscRun("image", 19, 1, 1, 0, "zero_shot_text", None, {}, None, 0.8)
    add_runs([*first, zeroshot], tmp_path)
    add_runs(second, tmp_path)
    assert list(read_runs(*PLACE, tmp_path).values()) == sorted(first + second, key=lambda run: run.key)
    assert list(read_runs("image", 19, 0, tmp_path).values()) == [zeroshot]
    assert len(list(tmp_path.iterdir())) == 2
    assert score(read_runs("image", 19, 0, tmp_path), "zero_shot_text").accuracies == {(1, 1): 0.8}


def test_a_run_made_again_takes_the_place_of_the_first(tmp_path):
    add_runs(probe(esc.UNI_MODAL, (1, 1)), tmp_path)
    again = probe(esc.UNI_MODAL, (1, 1), test=0.9)
    add_runs(again[:1], tmp_path)
    runs = read_runs(*PLACE, tmp_path)
    assert len(runs) == 12
    assert runs[again[0].key].test == 0.9


@pytest.mark.parametrize(("vals", "chosen"), [({}, 0), ({3: 0.4}, 3), ({5: 0.4, 2: 0.4}, 2), ({11: 0.2}, 11)])
def test_validation_selects_and_the_first_of_the_grid_wins_ties(vals, chosen):
    runs = {run.key: run for run in probe(esc.UNI_MODAL, (2, 3), vals)}
    assert score(runs, esc.UNI_MODAL).accuracies == {(2, 3): 0.5 - chosen / 100}


def test_incomplete_grids_and_missing_tests_do_not_count():
    runs = {run.key: run for run in probe(esc.UNI_MODAL, (1, 1))[1:]}
    assert score(runs, esc.UNI_MODAL).accuracies == {}
    untested = EscRun("image", 19, 1, 1, 1, "zero_shot_text", None, {}, None, None)
    assert score({untested.key: untested}, "zero_shot_text").accuracies == {}


def test_mean_deviation_and_wins_over_the_25_runs():
    uni = [run for pair in PAIRS for run in probe(esc.UNI_MODAL, pair, test=0.5)]
    both = [run for k, pair in enumerate(PAIRS) for run in probe(esc.AUDIO_VISUAL, pair, test=0.6 if k < 7 else 0.5)]
    runs = {run.key: run for run in uni + both}
    assert wins(runs) == (7, 25)  # a draw is no win
    mean, std = mean_and_deviation(score(runs, esc.AUDIO_VISUAL))
    assert mean == pytest.approx((7 * 0.6 + 18 * 0.5) / 25)
    assert std == pytest.approx(0.1 * (7 * 18) ** 0.5 / 25)
    del runs[uni[0].key]
    assert mean_and_deviation(score(runs, esc.UNI_MODAL)) is None
    assert wins(runs)[1] == 24


@pytest.mark.parametrize("change", [{"task": "video"}, {"split": 6}, {"draw": 0}, {"classes": 20}, {"method": "x"}])
def test_what_is_no_run_of_the_benchmark(change):
    fields = {"task": "image", "classes": 19, "split": 1, "draw": 1, "method": "zero_shot_text"}
    with pytest.raises(ValueError, match=f"{next(iter(change))} is "):
        EscRun(**fields | change, shots=1, hyperparameters=None, inputs={}, val=None, test=0.5)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line[:30],
        lambda line: "[]",
        lambda line: "[" * 100_000,
        lambda line: line.replace('"shots":1', '"shots":2'),
        lambda line: line.replace('"split":1', '"split":9'),
        lambda line: line.replace('"val"', '"value"'),
        lambda line: line.replace('"val":0.1', '"val":1.1'),
        lambda line: line.replace('"val":0.1', '"val":null'),
        lambda line: line.replace('"val":0.1', '"val":NaN'),
        lambda line: line.replace('"max_iter":12800', '"max_iter":12800.0'),
        lambda line: line.replace('"draw":1', '"draw":true'),
    ],
)
def test_a_line_that_is_no_run_is_named(spoil, tmp_path):
    add_runs(probe(esc.UNI_MODAL, (1, 1)), tmp_path)
    path = runs_path(*PLACE, tmp_path)
    lines = path.read_text().splitlines()
    assert all(json.loads(line) for line in lines)
    lines[4] = spoil(lines[4])
    assert lines[4] not in lines[:4]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"image_19-shot_1\.jsonl, line 5, is not a run of this file"):
        read_runs(*PLACE, tmp_path)


def test_a_line_that_is_there_twice_is_named(tmp_path):
    add_runs(probe(esc.UNI_MODAL, (1, 1)), tmp_path)
    path = runs_path(*PLACE, tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[3]]))
    with pytest.raises(UserError, match=r"image_19-shot_1\.jsonl, line 13, .*an earlier line has the same run"):
        read_runs(*PLACE, tmp_path)
