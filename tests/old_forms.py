"""Files as earlier versions of this project wrote them, from the same in their present form."""

import json

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.digests import tensors_digest
from engine.results.runs import as_json, read_record

CLASSIFIERS = ("trained", "wiseft", "zeroshot")


def old_record(record):
    """The JSON of a record before hyper-parameters had names, and accuracies of all classifiers were in one field."""
    said = as_json(record)
    said["cell"] = {"logit" if name == "log_logit_scale" else name: value for name, value in said["cell"].items()}
    del said["tuned"]
    accuracies, digests = said.pop("accuracies"), said.pop("shifted")
    said |= {name: {of: accuracies[name].get(of) for of in ("val", "test")} for name in CLASSIFIERS}
    said["shifted"] = {
        of: {"inputs": digest} | {name: accuracies[name][of] for name in CLASSIFIERS} for of, digest in digests.items()
    }
    points = {"hyperparameters": list(record.hyperparameters.values())}
    return said | points | {"grid": [list(point.values()) for point in record.grid]}


def make_records_old(folder):
    """Write all records below a folder anew in their old form; return them by path."""
    found = {path: read_record(path) for path in folder.rglob("record.json")}
    for path, record in found.items():
        path.write_text(json.dumps(old_record(record), indent=1) + "\n")
    return found


def make_classifier_old(path):
    """Write a classifier and the record beside it anew as of format 2."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["classifier"])
    kept = {name: tensor for name, tensor in load_file(path).items() if not name.startswith("confidences.")}
    tensors = {name.replace("embedding.phi.", "embedding.adapter."): tensor for name, tensor in kept.items()}
    (record,) = make_records_old(path.parent).values()
    del about["content"], about["calibrations"]
    about |= {"format": 2, "recipe": about.pop("extraction"), "run": json.loads(json.dumps(old_record(record)))}
    about["content"] = tensors_digest(tensors, json.dumps(about, sort_keys=True))
    save_file(tensors, path, {"classifier": json.dumps(about)})
