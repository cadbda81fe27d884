"""Records and lines of ImageNet-ESC as commit 38295d9 wrote them, which is before hyper-parameters had names."""

import json

import pytest

from engine.errors import UserError
from engine.results import esc
from engine.results.runs import Cell, Record, read_record, runs_digest, write_record
from engine.training.grid import Hparams
from old_forms import old_record

OLD = """{
 "cell": {
  "dataset": "imagenet",
  "shots": 1,
  "seed": 1,
  "encoder": "RN50",
  "image_layer": 0,
  "text_layer": 0,
  "text_augmentation": "hand_crafted",
  "image_augmentation": "flip",
  "image_views": 1,
  "modality": "cross_modal",
  "head": "linear",
  "init": "zeroshot",
  "logit": 4.60517,
  "hyperparams": "linear",
  "max_iter": 220,
  "max_val_shot": 4
 },
 "hyperparameters": [
  0.001,
  0.0,
  8
 ],
 "inputs": {
  "encoder": "digest of weights",
  "test": "digest of test"
 },
 "grid": [
  [
   0.001,
   0.0,
   8
  ],
  [
   0.001,
   0.0,
   32
  ]
 ],
 "step": 100,
 "trained": {
  "val": 0.5,
  "test": 0.36
 },
 "wiseft": {
  "val": 0.25,
  "test": 0.35
 },
 "zeroshot": {
  "val": 0.125,
  "test": 0.34
 },
 "seconds": 0.010866656166626854,
 "versions": {
  "python": "3.11.7",
  "torch": "2.15.0+cu132"
 },
 "diverged": false,
 "shifted": {
  "imagenetv2": {
   "inputs": "d1",
   "trained": 0.5,
   "wiseft": 0.25,
   "zeroshot": 0.125
  },
  "imagenet_a/all_classes": {
   "inputs": "d2",
   "trained": 0.0,
   "wiseft": 0.1,
   "zeroshot": 0.2
  }
 }
}
"""
POINTS = [Hparams(lr=0.001, weight_decay=0.0, batch_size=size) for size in (8, 32)]
NEW = Record(
    cell=Cell(
        *("imagenet", 1, 1, "RN50", 0, 0, "hand_crafted", "flip", 1, "cross_modal", "linear", "zeroshot"),
        log_logit_scale=4.60517,
        hyperparams="linear",
        max_iter=220,
    ),
    hyperparameters=POINTS[0],
    inputs={"encoder": "digest of weights", "test": "digest of test"},
    grid=POINTS,
    step=100,
    accuracies={
        "trained": {"val": 0.5, "test": 0.36, "imagenetv2": 0.5, "imagenet_a/all_classes": 0.0},
        "wiseft": {"val": 0.25, "test": 0.35, "imagenetv2": 0.25, "imagenet_a/all_classes": 0.1},
        "zeroshot": {"val": 0.125, "test": 0.34, "imagenetv2": 0.125, "imagenet_a/all_classes": 0.2},
    },
    seconds=0.010866656166626854,
    versions={"python": "3.11.7", "torch": "2.15.0+cu132"},
    shifted={"imagenetv2": "d1", "imagenet_a/all_classes": "d2"},
)
NEITHER = "record is neither as this version writes it nor as an earlier one did"
PROBE = "audiovisual_linear_prob"
LINES = """\
{"task":"image","classes":19,"split":1,"draw":2,"shots":1,"method":"audiovisual_linear_prob","hyperparameters":\
[0.0001,0.0,8],"inputs":{"encoder":"e","audio":"how"},"val":0.25,"test":null,"max_iter":12800,"step":0,\
"diverged":true,"seconds":1.5,"versions":{"torch":"2"}}
{"task":"image","classes":19,"split":1,"draw":2,"shots":1,"method":"audiovisual_linear_prob","hyperparameters":\
[0.1,0.01,8],"inputs":{"encoder":"e","audio":"how"},"val":0.5,"test":0.25,"max_iter":12800,"step":300,\
"diverged":false,"seconds":1.5,"versions":{"torch":"2"}}
"""
ZERO_SHOT = """\
{"task":"image","classes":19,"split":1,"draw":1,"shots":0,"method":"zero_shot_text","hyperparameters":null,\
"inputs":{"encoder":"e"},"val":null,"test":0.8,"max_iter":12800,"step":null,"diverged":false,"seconds":null,\
"versions":{}}
"""


def test_an_old_record_is_read(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(OLD)
    found = read_record(path)
    assert found == NEW
    assert (found.seconds, found.versions) == (NEW.seconds, NEW.versions)
    assert runs_digest([found], shifted=True) == runs_digest([NEW], shifted=True)
    write_record(found, tmp_path)
    (again,) = tmp_path.rglob("lr_0.001-wd_0-bs_8/record.json")
    assert read_record(again) == NEW
    assert "trained" not in json.loads(again.read_text())


def test_an_old_record_without_a_test_is_read(tmp_path):
    path, said = tmp_path / "record.json", json.loads(OLD)
    for name in ("trained", "wiseft", "zeroshot"):
        said[name]["test"] = None
    path.write_text(json.dumps(said | {"shifted": {}}))
    found = read_record(path)
    assert found == NEW.untested()
    assert not found.tested


def test_the_tests_of_scripts_write_old_records_as_they_were():
    assert old_record(NEW) == json.loads(OLD)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grid": [[0.001, 0.0]]}, r"record.grid\[0\] is not an object"),
        ({"hyperparameters": [0.001, "0", 8]}, "its hyperparameters are not in its grid"),
        ({"trained": {"test": 0.5}}, "it has no validation accuracy"),
        ({"trained": {"val": 0.5, "test": None}}, "trained and wiseft were not tested on the same sets"),
        ({"wiseft": {"val": 1.5, "test": 0.5}}, "an accuracy is 1.5"),
        ({"wiseft": {"val": [], "test": 0.5}}, "record.accuracies.wiseft.val is not a finite number"),
        ({"wiseft": 7}, NEITHER),
        ({"grid": None}, NEITHER),
        ({"shifted": {"imagenetv2": {"inputs": "x", "trained": -1, "wiseft": 0, "zeroshot": 0}}}, "an accuracy is -1"),
        ({"shifted": {"imagenetv2": {"trained": 0, "wiseft": 0, "zeroshot": 0}}}, "record has no inputs"),
        ({"shifted": []}, NEITHER),
        ({"step": -1}, "step is -1"),
        ({"extra": 1}, "record has an unknown field, extra"),
    ],
)
def test_an_old_record_that_cannot_be_is_named(change, said, tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(json.loads(OLD) | change))
    with pytest.raises(UserError, match=rf"record\.json is not a run's record \(.*{said}") as error:
        read_record(path)
    assert "\n" not in str(error.value)


def test_old_lines_of_imagenet_esc_are_read_and_added_to(tmp_path):
    places = {shots: esc.runs_path("image", 19, shots, tmp_path) for shots in (0, 1)}
    places[1].write_text(LINES)
    places[0].write_text(ZERO_SHOT)
    first, second = esc.read_runs("image", 19, 1, tmp_path).values()
    assert second.hyperparameters == Hparams(lr=0.1, weight_decay=0.01, batch_size=8)
    assert second.key == (PROBE, 1, 2, (0.1, 0.01, 8))
    assert (second.val, second.test, second.step, second.seconds) == (0.5, 0.25, 300, 1.5)
    assert (first.test, first.diverged) == (None, True)
    (zero_shot,) = esc.read_runs("image", 19, 0, tmp_path).values()
    assert (zero_shot.hyperparameters, zero_shot.test) == (None, 0.8)

    records, cell = esc.EscRecords(tmp_path), esc.EscCell("image", 19, 1, 2, 1, PROBE)
    assert list(records.read(cell)) == [second.hyperparameters, first.hyperparameters]
    assert records.zero_shot("image", 19, 0).keys() == {zero_shot.key}
    records.write(records.find(cell, first.hyperparameters))
    records.flush()
    assert list(esc.read_runs("image", 19, 1, tmp_path).values()) == [first, second]
    assert [type(json.loads(line)["hyperparameters"]) for line in places[1].read_text().splitlines()] == [dict, dict]


def test_an_old_line_that_is_no_run_is_named(tmp_path):
    path = esc.runs_path("image", 19, 1, tmp_path)
    path.write_text(LINES.replace("[0.1,0.01,8]", "[0.1,0.01]"))
    with pytest.raises(UserError, match=r"image_19-shot_1\.jsonl, line 2, is not a run of this file \(run.hyperparam"):
        esc.read_runs("image", 19, 1, tmp_path)
