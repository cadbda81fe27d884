"""Every command-line argument of every script, declared once, and how a script starts and stops.

A script asks for the arguments it wants by name:

    parser = config.parser(__doc__, "dataset", "train_shot", "seed")
    args = parser.parse_args()
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

from engine import datasets, optimizer, templates
from engine.clip import names
from engine.config import default, refusals, streams
from engine.datasets.few_shot import ALL, MAX_VAL_SHOT, MissingSplits, Shots
from engine.errors import UserError
from engine.results import layout
from engine.results.layout import TABLES, Scope
from engine.results.predictions import FORMATS
from engine.results.runs import Cell

SHOTS = [1, 2, 4, 8, 16]
SEEDS = [1, 2, 3]
"""The paper's shots and seeds (section 9 of its appendix)."""
SOURCE_SHOTS = [16]
"""The shots of its domain shift (section 6 of the protocol)."""

MOST, MOST_SEED = 10**9, 2**63 - 1
"""The largest number that arguments take, and the largest seed."""
MOST_WORKERS, MOST_VIEWS = 1024, 1000
"""Each worker is a process, and each view is encoded of every training image."""


def boolean(text: str) -> bool:
    """Read true/false, as in `--wise_ft False`: unlike argparse's `type=bool`, which takes every word for true."""
    words = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return words[text.lower()]


def whole(text: str, most: int = MOST) -> int:
    """Read a whole number, from -`most` to `most`."""
    try:
        number = int(text)
    except ValueError as error:  # also for more digits than Python reads
        raise argparse.ArgumentTypeError(f"'{text:.50}' is not a whole number") from error
    if abs(number) > most:
        raise argparse.ArgumentTypeError(f"'{text:.50}' is too large; at most {most:,}")
    return number


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def logit(text: str) -> float:
    """Read the logarithm of a scale that is a normal number in float32."""
    try:
        number = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text:.50}' is not a number") from error
    if not abs(number) <= optimizer.MAX_LOGIT:
        most = optimizer.MAX_LOGIT
        raise argparse.ArgumentTypeError(f"'{text:.50}' is not a number from -{most} to {most}")
    return number


def shots(text: str) -> Shots:
    """Read a number of images per class, or `all`."""
    try:
        return ALL if text == ALL else positive(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; shots are a number or 'all'") from error


def not_negative(text: str, most: int = MOST) -> int:
    """Read a whole number from 0 to `most`."""
    number = whole(text, most)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is negative")
    return number


def _seed(text: str) -> int:
    """A seed of few-shot splits."""
    return not_negative(text, MOST_SEED)


def _workers(text: str) -> int:
    """A number of processes."""
    return not_negative(text, MOST_WORKERS)


def _views(text: str) -> int:
    """A number of views of each training image, which its augmentation may refuse."""
    return whole(text, MOST_VIEWS)


def _layers(text: str) -> int:
    """A number of layers, or -1 for all; how many there are is known once the encoder is loaded."""
    number = whole(text)
    if number < -1:
        raise argparse.ArgumentTypeError(f"{number} is neither a number of layers nor -1 (all of them)")
    return number


def size(text: str) -> int:
    """Read a number of bytes, as in `8G`, `500M` or `1.5T` (powers of 1024)."""
    units = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
    match = re.fullmatch(r"([0-9.]+)\s*([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    try:
        number = int(float(match[1]) * 1024 ** units[match[2].upper()])
    except (TypeError, ValueError, OverflowError):
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text:.50}' is not a size such as 8G or 500M")
    return number


def _dataset(text: str) -> str:
    """A dataset's name, or a path of images of one's own, which gives them a name; or the names there are."""
    if text in datasets.names():
        return text
    if os.sep in text or text.lower().endswith(".csv") or os.path.isdir(text):
        return datasets.own(text)
    raise argparse.ArgumentTypeError(
        f"no dataset is called '{text}'; there are: {', '.join(datasets.names())}; or the path of a folder or CSV of"
        " images of your own"
    )


def _templates(text: str) -> str:
    """What `--text-augmentation` names, or the path of a file of templates, which gives them a name."""
    if text in templates.AUGMENTATIONS:
        return text
    if os.sep in text or text.lower().endswith(".txt") or os.path.isfile(text):
        return templates.own(text)
    raise argparse.ArgumentTypeError(
        f"'{text}' is none of {', '.join(templates.AUGMENTATIONS)}, and no file of templates"
    )


def _source(text: str) -> str:
    """The name of a dataset that has shifted test sets, or the names there are."""
    if text not in datasets.SOURCES:
        has = (
            "is a shifted test set"
            if text in datasets.names() and datasets.parent(text)
            else "has no shifted test sets"
        )
        raise argparse.ArgumentTypeError(f"'{text}' {has}; train on one of: {', '.join(datasets.SOURCES)}")
    return text


def _table(text: str) -> str:
    """A table's name, which may be given as its file is called."""
    return text.removesuffix(".csv")


def _png(text: str) -> str:
    """The path of a picture, whose name must say what it is: pictures are PNG."""
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"'{text}' does not end in .png, and plots are PNG files alone")
    return text


def _numbers(text: str) -> int | str:
    """The number of one of the paper's tables, or `all`."""
    if text != "all" and text not in map(str, TABLES):
        raise argparse.ArgumentTypeError(f"'{text}' is not one of {', '.join(map(str, TABLES))} or all")
    return text if text == "all" else int(text)


def _named_cell(text: str) -> tuple[str, int, int]:
    """A dataset, shots and seed, as in `dtd,16,1`."""
    try:
        dataset, per_class, seed = text.rsplit(",", 2)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not dataset,shots,seed, as in dtd,16,1") from error
    return _dataset(dataset.strip()), shots(per_class), _seed(seed)


def _argument(*flags: str, **settings: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return flags, settings


PROMPTS = ["hand_crafted"]
"""The prompts that features.py makes where none are named, and then of no test-only dataset."""
_MANY = {"nargs": "+", "metavar": "X"}
_TYPED = {"dataset": datasets.given, "text_augmentation": templates.given}
"""What to type for values of arguments whose types give paths a name, by where argparse keeps them."""

ARGUMENTS = {
    # what to run on
    "dataset": _argument(
        "--dataset",
        type=_dataset,
        **_MANY,
        default=datasets.TARGETS,
        help="one dataset or several: names, or paths of images of your own, a folder or a CSV (all eleven)",
    ),
    "datasets": _argument(
        "--datasets",
        "--dataset",
        dest="dataset",
        type=_dataset,
        **_MANY,
        default=datasets.TARGETS,
        help="datasets to tabulate, names or paths of your own (all eleven)",
    ),
    "train_shot": _argument(
        "--train-shot",
        type=shots,
        **_MANY,
        default=SHOTS,
        help="training images per class, or all: every training and every validation image (1 2 4 8 16)",
    ),
    "source": _argument(
        "--dataset",
        type=_source,
        **_MANY,
        default=[datasets.SOURCES[0]],
        help=f"{' or '.join(datasets.SOURCES)}, which have shifted test sets ({datasets.SOURCES[0]})",
    ),
    "source_shot": _argument(
        "--train-shot", type=positive, **_MANY, default=SOURCE_SHOTS, help="training images per class (16)"
    ),
    "source_seeds": _argument("--seed", type=_seed, **_MANY, help="seeds to tabulate (those of 1 2 3 that have runs)"),
    "shifted": _argument(
        "--shifted", type=_dataset, **_MANY, help="shifted test sets (all of the dataset that is trained on)"
    ),
    "class_subset": _argument(
        "--class_subset",
        type=boolean,
        default=True,
        metavar="true|false",
        help="on sets with a part of the classes, predictions are among these alone (true) or among all",
    ),
    "max_val_shot": _argument(
        "--max-val-shot", type=positive, default=MAX_VAL_SHOT, help="validation images per class: min(shots, this) (4)"
    ),
    "seed": _argument("--seed", type=_seed, **_MANY, default=SEEDS, help="seeds of the few-shot split (1 2 3)"),
    # the encoder
    "clip_encoder": _argument(
        "--clip-encoder",
        **_MANY,
        default=["RN50"],
        help="RN50, RN101, ViT-B/32, ViT-B/16, ... (OpenAI's weights), an open_clip name with its pretrained tag"
        " (ViT-B-16:datacomp_xl_s13b_b90k), demo-RN or demo-ViT (RN50)",
    ),
    "clip_weights": _argument(
        "--clip-weights",
        metavar="FILE",
        help="local weights for --clip-encoder: .safetensors, .pt state dict or checkpoint, or OpenAI archive",
    ),
    "image_layer_idx": _argument(
        "--image-layer-idx",
        type=_layers,
        metavar="N",
        default=0,
        help="how many of the image encoder's last layers stay trainable, -1 for all (0)",
    ),
    "text_layer_idx": _argument(
        "--text-layer-idx",
        type=_layers,
        metavar="N",
        default=0,
        help="how many of the text encoder's last layers stay trainable, -1 for all (0)",
    ),
    "image_layers": _argument(
        "--image-layer-idx",
        dest="image_layer_idx",
        type=_layers,
        **_MANY,
        default=[0],
        help="how many of the image encoder's last layers stay trainable, -1 for all; several in one pass (0)",
    ),
    "text_layers": _argument(
        "--text-layer-idx",
        dest="text_layer_idx",
        type=_layers,
        **_MANY,
        default=[0],
        help="how many of the text encoder's last layers stay trainable, -1 for all; several in one pass (0)",
    ),
    "precision": _argument(
        "--precision",
        choices=["fp32", "bf16", "fp16"],
        default="fp32",
        help="what the encoder computes in: float32 as the protocol has it, or a faster type with features a part of a"
        " per cent off; fp16 is for GPUs (fp32)",
    ),
    # its inputs
    "text_augmentation": _argument(
        "--text-augmentation",
        "--templates",
        type=_templates,
        metavar="X",
        default="hand_crafted",
        help="the prompts: hand_crafted (templates made by hand for each dataset), classname (the name alone), vanilla"
        " ('a photo of a ...'), template_mining (of a pool of 180 templates the 21 that are best on the validation"
        " images of each few-shot split), or a text file with a template of your own on each line (hand_crafted)",
    ),
    "text_augmentations": _argument(
        "--text-augmentation",
        "--templates",
        dest="text_augmentation",
        type=_templates,
        **_MANY,
        default=PROMPTS,
        help="the prompts, one or several of: hand_crafted (templates made by hand for each dataset), classname (the"
        " name alone), vanilla ('a photo of a ...'), template_mining (a pool of 180 templates, whose 21 best on the"
        " validation images are taken for each few-shot split), or text files with a template of your own on each line"
        " (hand_crafted, and none of test-only datasets)",
    ),
    "image_augmentation": _argument(
        "--image-augmentation",
        choices=["none", "flip", "randomcrop"],
        default="flip",
        help="views of each training image beside the plain one (flip)",
    ),
    "image_views": _argument(
        "--image-views", type=_views, help="number of those views: 0 with none, 1 with flip (0 with none, else 1)"
    ),
    # the classifier
    "modality": _argument(
        "--modality",
        choices=["cross_modal", "uni_modal"],
        default="cross_modal",
        help="half of each batch prompts, or images alone (cross_modal)",
    ),
    "classifier_head": _argument(
        "--classifier_head",
        choices=["linear", "adapter"],
        default="linear",
        help="a linear layer, or a residual adapter before it (linear)",
    ),
    "classifier_init": _argument(
        "--classifier_init",
        choices=["zeroshot", "random"],
        default="zeroshot",
        help="start from the mean prompt feature of each class, or at random (zeroshot). A uni-modal baseline takes"
        " random: with zeroshot the text has already come in",
    ),
    "logit": _argument(
        "--logit", type=logit, default=4.60517, help="log of the scale of the logits: 4.60517 is 100 (4.60517)"
    ),
    "hyperparams": _argument(
        "--hyperparams", choices=list(optimizer.GRIDS), default="linear", help="hyper-parameter grid (linear)"
    ),
    "mode": _argument(
        "--mode", choices=list(optimizer.MODES), default="linear", help="the method to tabulate (linear)"
    ),
    "wise_ft": _argument(
        "--wise_ft",
        type=boolean,
        default=False,
        metavar="true|false",
        help="WiSE-FT instead of the trained head (false)",
    ),
    # tables
    "name": _argument(
        "--name", type=_table, nargs="+", metavar="NAME", required=True, help="tables that eval.py wrote"
    ),
    "plot": _argument("--plot", type=_png, metavar="FILE.png", help="draw accuracy against shots"),
    "title": _argument("--title", default="", help="title of the plot"),
    "table": _argument(
        "--table",
        type=_numbers,
        nargs="+",
        metavar="N",
        required=True,
        help=f"tables of the paper: {' '.join(map(str, TABLES))}, or all",
    ),
    "explain": _argument(
        "--explain",
        type=_named_cell,
        metavar="DATASET,SHOTS,SEED",
        help="instead of a table, show all runs of one cell and which of them validation selects",
    ),
    # using a classifier
    "run": _argument(
        "--run",
        required=True,
        metavar="RUN",
        help="a run that train.py --save-heads trained: its record.json, or a folder with one in or below it",
    ),
    "images": _argument("images", nargs="*", metavar="IMAGE", help="files, or folders, whose images are found"),
    "list": _argument("--list", metavar="FILE", help="a file that names more of them, one a line; - is stdin"),
    "top_k": _argument(
        "--top-k", type=positive, default=1, metavar="K", help="most probable classes of each image (1)"
    ),
    "format": _argument("--format", choices=FORMATS, default="csv", help="CSV, or JSON lines (csv)"),
    "export": _argument("--export", metavar="FILE.onnx", help="write the classifier as an ONNX model"),
    "weights_of_run": _argument(
        "--clip-weights", metavar="FILE", help="the encoder's weights, if features.py was given a file with them"
    ),
    # how to run
    "max_iter": _argument("--max-iter", type=positive, default=optimizer.MAX_ITER, help="training steps (12800)"),
    "test": _argument(
        "--test",
        choices=["selected", "all"],
        default="selected",
        help="test the run that validation selects, or every run of the grid (selected)",
    ),
    "save_heads": _argument(
        "--save-heads",
        action="store_true",
        help="keep the classifier of the run that validation selects beside its record, for predict.py. Needs the"
        " encoder's weights; of a sweep that is complete, that run alone is trained again",
    ),
    "executor": _argument(
        "--executor",
        choices=["stacked", "sequential"],
        default="stacked",
        help="train all runs of a sweep at once, or one after another: the same results (stacked)",
    ),
    "max_memory": _argument(
        "--max-memory",
        type=size,
        metavar="SIZE",
        help="memory that runs training at once may take, such as 8G (most of what is free)",
    ),
    "device": _argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)"),
    "test_batch_size": _argument("--test-batch-size", type=positive, default=32, help="images encoded at a time (32)"),
    "num_workers": _argument(
        "--num-workers",
        type=_workers,
        help="processes that decode images (one per core, 16 at most; where the CPU encodes too, one per 8 cores)",
    ),
    "decode": _argument(
        "--decode",
        choices=["pil", "fast"],
        default="pil",
        help="what decodes and resizes images: PIL, as the protocol has it, or torchvision, twice as fast and a grey"
        " level off here and there (pil)",
    ),
    "store_dtype": _argument(
        "--store-dtype",
        choices=["fp32", "fp16"],
        default="fp32",
        help="what inputs of trainable layers are stored in: fp16 takes half the room. Final features are small, and"
        " stay fp32 (fp32)",
    ),
    "dry_run": _argument(
        "--dry-run",
        action="store_true",
        help="say what is missing and how large it is, and stop; images of your own are divided all the same",
    ),
    "verify": _argument(
        "--verify",
        action="store_true",
        help="check the features of these datasets and encoders that are there, and stop: needs neither images nor"
        " weights. Names each bad file; the exit status is 1 if there is one",
    ),
    "repair": _argument(
        "--repair", action="store_true", help="--verify, and remove the bad files, so that the next run makes them anew"
    ),
    # the installation
    "asked_datasets": _argument(
        "--dataset", type=_dataset, **_MANY, help="datasets that must be there (look at all, which may be missing)"
    ),
    "asked_encoders": _argument(
        "--clip-encoder", **_MANY, help="encoders whose weights must be there (look at all, which may be missing)"
    ),
    "download": _argument(
        "--download",
        type=_dataset,
        **_MANY,
        help="fetch what these datasets lack, goes on where it stopped, and look at them alone; what takes a person is"
        " said",
    ),
    # sounds
    "esc_dir": _argument("--esc-dir", metavar="DIR", help="ESC-50 as unpacked (PATH in the script: ESC-50-master)"),
    "checkpoint": _argument(
        "--checkpoint",
        metavar="FILE",
        help="AudioCLIP's weights (CHECKPOINT in the script: AudioCLIP-Partial-Training.pt)",
    ),
    "audio_scale": _argument(
        "--audio-scale",
        type=whole,
        choices=[1, 32768],
        default=1,
        help="what samples in [-1, 1] are multiplied by: 1 is what the paper's features were made with, 32768 what the"
        " network was trained on (1)",
    ),
    "audio_mode": _argument(
        "--mode",
        dest="audio_mode",
        choices=["train", "eval"],
        default="train",
        help="BatchNorm by the statistics of the batch, as in the paper, or by the running ones (train)",
    ),
    "batch_size": _argument("--batch-size", type=positive, default=10, help="clips encoded at a time (10)"),
    "resample": _argument(
        "--resample", action="store_true", help="convert clips of another rate or several channels instead of refusing"
    ),
    "force": _argument(
        "--force", action="store_true", help="with --mode train: take folds whose last batch is not full, too"
    ),
    "demo": _argument(
        "--demo",
        action="store_true",
        help="the demo's images and sounds, which are made first, instead of ImageNet and ESC-50",
    ),
    # where things lie
    "data_dir": _argument("--data_dir", default=default.DATA_DIR, help=f"({default.DATA_DIR})"),
    "indices_dir": _argument("--indices_dir", default=default.FEW_SHOT_DIR, help=f"({default.FEW_SHOT_DIR})"),
    "feature_dir": _argument("--feature_dir", default=default.FEATURE_DIR, help=f"({default.FEATURE_DIR})"),
    "result_dir": _argument("--result_dir", default=default.RESULT_DIR, help=f"({default.RESULT_DIR})"),
    "eval_dir": _argument("--eval_dir", default=default.EVAL_DIR, help=f"({default.EVAL_DIR})"),
    "avg_dir": _argument("--avg_dir", default=default.AVG_DIR, help=f"({default.AVG_DIR})"),
    "esc_result_dir": _argument(
        "--esc_result_dir",
        default=default.ESC_RESULT_DIR,
        help=f"where imagenet_esc.py leaves its runs ({default.ESC_RESULT_DIR})",
    ),
}


SPLITS = "dataset train_shot max_val_shot seed data_dir indices_dir".split()
FEATURES = (
    "dataset train_shot max_val_shot seed clip_encoder clip_weights image_layers text_layers text_augmentations"
    " image_augmentation image_views precision decode store_dtype test_batch_size num_workers device data_dir"
    " indices_dir feature_dir"
).split()
TRAIN = (
    "modality classifier_head classifier_init logit hyperparams dataset train_shot max_val_shot seed clip_encoder"
    " clip_weights image_layer_idx text_layer_idx text_augmentation image_augmentation image_views max_iter test"
    " save_heads executor max_memory device indices_dir feature_dir result_dir"
).split()
DOMAIN_SHIFT = [{"dataset": "source", "train_shot": "source_shot"}.get(name, name) for name in TRAIN] + ["shifted"]
EVAL = (
    "mode modality classifier_init datasets train_shot max_val_shot seed clip_encoder clip_weights text_augmentation"
    " image_augmentation image_views wise_ft max_iter result_dir eval_dir"
).split()
EVAL_DOMAIN_SHIFT = (
    "mode modality classifier_init source source_shot source_seeds max_val_shot clip_encoder clip_weights"
    " text_augmentation image_augmentation image_views wise_ft class_subset shifted max_iter result_dir eval_dir"
).split()
PREDICT = ("run images list top_k format wise_ft export weights_of_run test_batch_size num_workers device").split()
IMAGENET_ESC = (
    "demo clip_weights max_iter executor max_memory device data_dir indices_dir feature_dir esc_result_dir avg_dir"
).split()
AUDIO = "esc_dir checkpoint audio_scale audio_mode batch_size device resample force feature_dir".split()
"""The arguments of scripts that other scripts name in the commands they tell the user to type."""
CHECK = "asked_datasets asked_encoders clip_weights download data_dir indices_dir feature_dir result_dir".split()
"""Those of check.py."""
TABLES_OF_PAPER = (
    "table datasets train_shot seed clip_encoder clip_weights max_iter plot title result_dir esc_result_dir avg_dir"
).split()
"""Those of tables.py."""


class _Parser(argparse.ArgumentParser):
    """Keeps the arguments that it read, for the command with which `run` ends an error."""

    arguments = argparse.Namespace()

    def parse_args(self, *words: Any, **settings: Any) -> argparse.Namespace:
        _Parser.arguments = super().parse_args(*words, **settings)
        return _Parser.arguments


def parser(description: str, *names: str) -> argparse.ArgumentParser:
    """A parser with the arguments of these `names` (keys of `ARGUMENTS`); `description` is a script's docstring."""
    made = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        flags, settings = ARGUMENTS[name]
        made.add_argument(*flags, **settings)
    return made


def image_views(args: argparse.Namespace) -> int:
    """`--image-views` made whole: 0 with `none`, 1 with `flip`, at least 1 with `randomcrop`.

    Raises UserError for a number that its augmentation cannot have.
    """
    augmentation, views = args.image_augmentation, args.image_views
    if views is None:
        return 0 if augmentation == "none" else 1
    allowed = {"none": views == 0, "flip": views == 1, "randomcrop": views >= 1}
    if not allowed[augmentation]:
        needed = {"none": "0", "flip": "1 (a second flip is the first again)", "randomcrop": "1 or more"}[augmentation]
        raise UserError(f"--image-augmentation {augmentation} takes --image-views {needed}, not {views}")
    return views


def check_encoders(args: argparse.Namespace) -> None:
    """Raise UserError for local weights that would have to serve several encoders."""
    if args.clip_weights and len(args.clip_encoder) > 1:
        raise UserError(f"--clip-weights is one file, and --clip-encoder names {len(args.clip_encoder)} encoders")


def device(args: argparse.Namespace) -> str:
    """`--device`, where `auto` is cuda if there is one, else cpu. Raises UserError for a device that is not there."""
    import torch  # seconds to import, which --help and few_shot_split.py need not wait for

    if args.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that torch knows from former times
            torch.ones(1, device=args.device).cpu()  # `meta` can make tensors, but has no numbers
    except Exception as error:  # torch has an exception for each kind of device that it was not built for
        there = "cpu" + ", cuda" * torch.cuda.is_available() + ", mps" * torch.backends.mps.is_available()
        raise UserError(
            f"--device {args.device} cannot be used: PyTorch has no such device on this machine; it has {there}"
        ) from error
    return args.device


def workers(args: argparse.Namespace, device: str) -> int:
    """`--num-workers`; by default one per core, 16 at most, and an eighth of that where the CPU encodes too.

    There encoding takes all cores, and ten times as long as decoding or more.
    """
    if args.num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // 8) if device == "cpu" else min(16, cores)
    return args.num_workers


def shifted_sets(args: argparse.Namespace) -> dict[str, list[str]]:
    """The shifted test sets by each dataset of `--dataset`: `--shifted`, or all there are.

    Raises UserError for one that belongs to none of the datasets, and for a dataset to which none of them belongs.
    """
    of = {dataset: datasets.variants(dataset) for dataset in args.dataset}
    if args.shifted is None:
        return of
    for name in args.shifted:
        if not any(name in variants for variants in of.values()):
            there = ", ".join(variant for variants in of.values() for variant in variants)
            raise UserError(f"{name} is no shifted test set of {', '.join(of)}; there are: {there}")
    chosen = {dataset: [name for name in variants if name in args.shifted] for dataset, variants in of.items()}
    if without := [dataset for dataset, variants in chosen.items() if not variants]:
        raise UserError(f"--shifted names no shifted test set of {', '.join(without)}")
    return chosen


def apply_mode(args: argparse.Namespace) -> None:
    """Set what `--mode` fixes, under the names that train.py's arguments have. The text encoder stays whole."""
    mode = optimizer.MODES[args.mode]
    args.classifier_head, args.image_layer_idx, args.hyperparams, args.logit = mode
    args.text_layer_idx = 0


def cells(args: argparse.Namespace) -> list[Cell]:
    """The cells that arguments of train.py mean: all combinations of encoders, datasets, shots and seeds, each once.

    Raises UserError for a dataset that has only a test set.
    """
    views = image_views(args)
    for dataset in args.dataset:
        trained_on(dataset)
    asked = (args.clip_encoder, args.dataset, args.train_shot, args.seed)
    return [
        Cell(
            dataset=dataset,
            shots=per_class,
            seed=seed,
            encoder=names.folder(encoder, args.clip_weights),
            image_layer=args.image_layer_idx,
            text_layer=args.text_layer_idx,
            text_augmentation=args.text_augmentation,
            image_augmentation=args.image_augmentation,
            image_views=views,
            modality=args.modality,
            head=args.classifier_head,
            init=args.classifier_init,
            logit=args.logit,
            hyperparams=args.hyperparams,
            max_iter=args.max_iter,
            max_val_shot=args.max_val_shot,
        )
        for encoder, dataset, per_class, seed in itertools.product(*map(dict.fromkeys, asked))
    ]


def scope(args: argparse.Namespace, table: int) -> Scope:
    """What arguments of tables.py make a table of; what is None there is as in the paper's table.

    ImageNet-ESC is as the protocol has it, or the demo's. Raises UserError for datasets that the table cannot be made
    of.
    """
    if TABLES[table].kind == "esc":
        return layout.scope_of_esc(table, args.dataset == ["demo"], args.max_iter)
    of_paper = layout.scope_of_paper(table, args.seed or SEEDS)
    own = {name: names.folder(name, args.clip_weights) for name in args.clip_encoder or of_paper.encoders}
    if args.clip_weights and len(own) > 1:
        raise UserError(
            f"--clip-weights is one file, and Table {table} is of {len(own)} encoders; choose with --clip-encoder"
        )
    asked = tuple(dict.fromkeys(args.dataset or of_paper.datasets))
    for dataset in asked:
        trained_on(dataset)
    if TABLES[table].kind == "shift":
        layout.require_shifts(asked)
    if ALL in (args.train_shot or []):
        raise UserError("the paper's tables are of numbers of shots, not of --train-shot all; eval.py tabulates that")
    by, seeds = (tuple(dict.fromkeys(values)) for values in (args.train_shot or of_paper.shots, of_paper.seeds))
    return Scope(asked, by, seeds, own, args.max_iter)


def trained_on(dataset: str) -> str:
    """The name of a dataset that classifiers are trained on. Raises UserError for one that has only a test set."""
    if parent := datasets.parent(dataset):
        raise UserError(f"{dataset} has only a test set; classifiers for it are trained on --dataset {parent}")
    return dataset


def command(script: str, arguments: list[str], args: argparse.Namespace, **changes: Any) -> str:
    """The command line that runs `script`, which takes `arguments`, as `args` say, with `changes` to their values.

    Arguments at their default are left out, but for those that say what to run on.
    """
    values = vars(args) | changes
    words = ["python", script]
    for name in arguments:
        flags, settings = ARGUMENTS[name]
        key = settings.get("dest", flags[0].lstrip("-").replace("-", "_"))  # where argparse keeps it
        value = values.get(key, settings.get("default"))
        if settings.get("action") == "store_true":
            words += [flags[0]] * bool(value)
            continue
        if settings.get("nargs") and value is not None and not isinstance(value, list):
            value = [value]  # train.py takes one of what features.py takes several of
        if value != settings.get("default") or (key in ("dataset", "train_shot", "seed", "clip_encoder") and value):
            typed = _TYPED.get(key, str)
            words += [flags[0], *map(typed, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def run(
    main: Callable[[], int | None], kept: str = "what is complete is kept; the same command goes on from there"
) -> None:
    """Run a script's `main` and exit: 0 or what it returns, 1 after a mistake of the user's, 130 after Ctrl-C.

    `kept` is said after Ctrl-C. When nobody reads what is printed any more (`| head`), the script ends without a word.
    """
    streams.prepare()
    try:
        sys.exit(_flushed(main) or 0)
    except MissingSplits as error:  # whatever the script, its command line says where they belong
        sys.exit(f"error: {error}:\n  {command('few_shot_split.py', SPLITS, _Parser.arguments, **error.wanted)}")
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        streams.discard_unwritten()
        sys.exit(128 + signal.SIGPIPE)
    except (OSError, RuntimeError, MemoryError) as error:
        if (said := refusals.said(error, vars(_Parser.arguments))) is None:
            raise
        streams.discard_unwritten()
        sys.exit(f"error: {said}")
    except KeyboardInterrupt:
        print(f"\ninterrupted: {kept}", file=sys.stderr)
        sys.exit(130)


def _flushed(main: Callable[[], int | None]) -> int | None:
    """Run `main`, and print what is buffered still: that the disk is full shows here, not when Python has ended."""
    try:
        return main()
    finally:
        sys.stdout.flush()
