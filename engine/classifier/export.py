"""Export of a saved classifier as an ONNX model, from pixels to probabilities, without dependency on this project.

The input `images` is uint8 [n, 3, size, size], RGB; the output `probabilities` is float32 [n, C]; n is any number. The
model normalises pixels and divides logits by the `temperature` of the metadata, which is 1 without calibration. The
metadata also contain `classnames`, a JSON list, and `preprocessing`, a JSON object with the fields of
`FeatureExtraction`, which defines the steps before the model: greys of more than 8 bits are shifted right by `depth` -
8, transparent pixels are shown on `background`, and `upright` images are rotated by their EXIF orientation. Then images
are resized with antialiasing: for `resize_mode` "shortest" the short side to `size`, then the centre is cropped; for
"squash" both sides to `size`.
"""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from engine.classifier import ImageClassifier
from engine.errors import UserError
from engine.files import temporary_name, write_atomically


def export(classifier: ImageClassifier, path: Path) -> None:
    """Write `classifier` to `path` atomically, in float32 whatever the precision of its features.

    Weights above torch's limit for one file (1.5 GiB) are written beside it, to `<name>.data`. Raises UserError if the
    required packages are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--export needs the packages onnx and onnxscript ({error}): pip install onnx onnxscript"
        ) from error
    classifier = copy.copy(classifier)
    classifier.extraction = replace(classifier.extraction, precision="fp32")
    images = torch.zeros(2, *classifier.shape, dtype=torch.uint8, device=classifier.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch
        # DYNAMIC raises an error if the batch size would be fixed; torch.onnx would fix it silently
        traced = torch.export.export(classifier, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        names = {"input_names": ["images"], "output_names": ["probabilities"]}
        program = torch.onnx.export(traced, **names, dynamo=True, verbose=False)
    program.model.metadata_props["classnames"] = json.dumps(classifier.classnames)
    program.model.metadata_props["temperature"] = json.dumps(classifier.temperature)
    program.model.metadata_props["preprocessing"] = json.dumps(asdict(classifier.extraction))
    write_atomically(path, lambda temporary: _save(program, path, temporary))


def _save(program: torch.onnx.ONNXProgram, path: Path, temporary: Path) -> None:
    """Write `temporary`, which becomes `path`, and the weights file that a large model references by name."""
    with TemporaryDirectory(dir=path.parent, prefix=temporary_name(path.name), suffix=".tmp") as folder:
        model = Path(folder) / path.name
        program.save(model, external_data=False)
        for weights in Path(folder).glob("*.data"):
            weights.replace(path.with_name(weights.name))
        model.replace(temporary)
