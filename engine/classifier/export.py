"""A trained classifier as an ONNX model: pixels in, probabilities out, with nothing of ours needed to run it.

Its input `images` is uint8 [n, 3, size, size], RGB; its output `probabilities` float32 [n, C]. n is any number. Images
are resized with antialiasing before, as `preprocessing` among the model's metadata says, a JSON object with the fields
of `FeatureExtraction`: for `resize_mode` "shortest" the short side to `size`, then the centre is cropped, for
"squash" both sides to `size`. Before that, greys of more than 8 bits are shifted right by `depth` - 8, transparent
pixels shown on `background` and `upright` images turned. Pixels are normalised inside. Class names are among the
metadata too, as a JSON list.
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
    """Write `classifier` to `path`, atomically, in float32 whatever the precision of its features.

    Weights that are too large for one file, as torch judges it (1.5 GiB), lie beside it, in `<name>.data`. Raises
    UserError where the packages that it takes are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"an ONNX model needs packages ({error}): pip install onnx onnxscript") from error
    classifier = copy.copy(classifier)
    classifier.extraction = replace(classifier.extraction, precision="fp32")
    images = torch.zeros(2, *classifier.shape, dtype=torch.uint8, device=classifier.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch will change some day
        # DYNAMIC fails where a batch's size would be fixed; torch.onnx would fix it without a word
        traced = torch.export.export(classifier, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        names = {"input_names": ["images"], "output_names": ["probabilities"]}
        program = torch.onnx.export(traced, **names, dynamo=True, verbose=False)
    program.model.metadata_props["classnames"] = json.dumps(classifier.classnames)
    program.model.metadata_props["preprocessing"] = json.dumps(asdict(classifier.extraction))
    write_atomically(path, lambda temporary: _save(program, path, temporary))


def _save(program: torch.onnx.ONNXProgram, path: Path, temporary: Path) -> None:
    """Write `temporary`, which becomes `path`, and the file of weights that a large model knows by that name."""
    with TemporaryDirectory(dir=path.parent, prefix=temporary_name(path.name), suffix=".tmp") as folder:
        model = Path(folder) / path.name
        program.save(model, external_data=False)
        for weights in Path(folder).glob("*.data"):
            weights.replace(path.with_name(weights.name))
        model.replace(temporary)
