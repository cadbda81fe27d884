"""Every command-line argument of every script, declared once, and the arguments of each script, by name."""

from __future__ import annotations

import argparse
import functools
from typing import Any

from engine import datasets
from engine.config import default, types
from engine.datasets.few_shot import MAX_VAL_SHOT
from engine.methods import DEFAULT, HEADS, METHODS, REGISTRY
from engine.paper.layout import TABLES
from engine.results.predictions import FORMATS
from engine.training.schedule import MAX_ITER

SHOTS = [1, 2, 4, 8, 16]
SEEDS = [1, 2, 3]
"""The paper's shots and seeds (section 9 of its appendix)."""
SOURCE_SHOTS = [16]
"""The shots of its domain shift (section 6 of the protocol)."""

SEVERAL = "+"
"""What ends the name of an argument of which a script takes several values, where others take one."""


def method_arguments(name: str) -> dict[str, Any]:
    """Return what a method sets, by where argparse keeps it."""
    method = METHODS[name]
    init = {"classifier_init": method.inits[0]} if len(method.inits) == 1 else {}
    return init | {
        "classifier_head": REGISTRY[name],
        "image_layer_idx": method.image_layer,
        "hyperparams": name,
        "logit": method.logit,
    }


class _SetMethod(argparse.Action):
    """Set all arguments that a method fixes; those that stand behind it on the command line change them again."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, name: Any, *_: Any) -> None:
        vars(namespace).update(method_arguments(name))


def _argument(*flags: str, **settings: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return flags, settings


_MANY = {"nargs": "+", "metavar": "X"}

ARGUMENTS = {
    # what to run on
    "dataset": _argument(
        "--dataset",
        type=types.dataset,
        **_MANY,
        default=datasets.TARGETS,
        help="one dataset or several: names, or paths of images of your own, a folder or a CSV (all eleven)",
    ),
    "datasets": _argument(
        "--datasets",
        "--dataset",
        dest="dataset",
        type=types.dataset,
        **_MANY,
        default=datasets.TARGETS,
        help="datasets to tabulate, names or paths of your own (all eleven)",
    ),
    "train_shot": _argument(
        "--train-shot",
        type=types.shots,
        **_MANY,
        default=SHOTS,
        help="training images per class, or all: every training and every validation image (1 2 4 8 16)",
    ),
    "source": _argument(
        "--dataset",
        type=types.source,
        **_MANY,
        default=[datasets.SOURCES[0]],
        help=f"{' or '.join(datasets.SOURCES)}, which have shifted test sets ({datasets.SOURCES[0]})",
    ),
    "source_shot": _argument(
        "--train-shot", type=types.positive, **_MANY, default=SOURCE_SHOTS, help="training images per class (16)"
    ),
    "source_seeds": _argument(
        "--seed", type=types.seed, **_MANY, help="seeds to tabulate (those of 1 2 3 that have runs)"
    ),
    "shifted": _argument(
        "--shifted", type=types.dataset, **_MANY, help="shifted test sets (all of the dataset that is trained on)"
    ),
    "class_subset": _argument(
        "--class_subset",
        type=types.boolean,
        default=True,
        metavar="true|false",
        help="on sets with a part of the classes, predictions are among these alone (true) or among all",
    ),
    "max_val_shot": _argument(
        "--max-val-shot",
        type=types.positive,
        default=MAX_VAL_SHOT,
        help="validation images per class: min(shots, this) (4)",
    ),
    "seed": _argument("--seed", type=types.seed, **_MANY, default=SEEDS, help="seeds of the few-shot split (1 2 3)"),
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
        type=types.layers,
        metavar="N",
        default=0,
        help="how many of the image encoder's last layers stay trainable, -1 for all (0)",
    ),
    "text_layer_idx": _argument(
        "--text-layer-idx",
        type=types.layers,
        metavar="N",
        default=0,
        help="how many of the text encoder's last layers stay trainable, -1 for all (0)",
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
        type=types.templates,
        metavar="X",
        default="hand_crafted",
        help="the prompts: hand_crafted (templates made by hand for each dataset), classname (the name alone), vanilla"
        " ('a photo of a ...'), template_mining (of a pool of 180 templates the 21 that are best on the validation"
        " images of each few-shot split), or a text file with a template of your own on each line (hand_crafted)",
    ),
    "image_augmentation": _argument(
        "--image-augmentation",
        choices=["none", "flip", "randomcrop"],
        default="flip",
        help="views of each training image beside the plain one (flip)",
    ),
    "image_views": _argument(
        "--image-views", type=types.views, help="number of those views: 0 with none, 1 with flip (0 with none, else 1)"
    ),
    # the classifier
    "modality": _argument(
        "--modality",
        choices=["cross_modal", "uni_modal"],
        default="cross_modal",
        help="half of each batch prompts, or images alone (cross_modal)",
    ),
    "method": _argument(
        "--method",
        "--mode",
        dest=argparse.SUPPRESS,
        action=_SetMethod,
        choices=list(METHODS),
        help=f"set --classifier_head, --hyperparams, --logit and --image-layer-idx as a method has them ({HEADS[0]})",
    ),
    "classifier_head": _argument(
        "--classifier_head",
        choices=HEADS,
        default=HEADS[0],
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
        "--logit",
        type=types.logit,
        default=DEFAULT.logit,
        help="log of the scale of the logits: 4.60517 is 100 (4.60517)",
    ),
    "hyperparams": _argument(
        "--hyperparams", choices=list(METHODS), default=HEADS[0], help=f"hyper-parameter grid ({HEADS[0]})"
    ),
    "mode": _argument(
        "--mode",
        "--method",
        choices=list(METHODS),
        default=HEADS[0],
        help=f"the method to tabulate ({HEADS[0]})",
    ),
    "wise_ft": _argument(
        "--wise_ft",
        type=types.boolean,
        default=False,
        metavar="true|false",
        help="WiSE-FT instead of the trained head (false)",
    ),
    # tables
    "name": _argument(
        "--name", type=types.table, nargs="+", metavar="NAME", required=True, help="tables that eval.py wrote"
    ),
    "plot": _argument("--plot", type=types.png, metavar="FILE.png", help="draw accuracy against shots"),
    "title": _argument("--title", default="", help="title of the plot"),
    "table": _argument(
        "--table",
        type=types.numbers,
        nargs="+",
        metavar="N",
        required=True,
        help=f"tables of the paper: {' '.join(map(str, TABLES))}, or all",
    ),
    "explain": _argument(
        "--explain",
        type=types.named_cell,
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
        "--top-k", type=types.positive, default=1, metavar="K", help="most probable classes of each image (1)"
    ),
    "format": _argument("--format", choices=FORMATS, default="csv", help="CSV, or JSON lines (csv)"),
    "export": _argument("--export", metavar="FILE.onnx", help="write the classifier as an ONNX model"),
    "weights_of_run": _argument(
        "--clip-weights", metavar="FILE", help="the encoder's weights, if features.py was given a file with them"
    ),
    # how to run
    "max_iter": _argument("--max-iter", type=types.positive, default=MAX_ITER, help="training steps (12800)"),
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
        type=types.size,
        metavar="SIZE",
        help="memory that runs training at once may take, such as 8G (most of what is free)",
    ),
    "device": _argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)"),
    "test_batch_size": _argument(
        "--test-batch-size", type=types.positive, default=32, help="images encoded at a time (32)"
    ),
    "num_workers": _argument(
        "--num-workers",
        type=types.workers,
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
        "--dataset", type=types.dataset, **_MANY, help="datasets that must be there (look at all, which may be missing)"
    ),
    "asked_encoders": _argument(
        "--clip-encoder", **_MANY, help="encoders whose weights must be there (look at all, which may be missing)"
    ),
    "download": _argument(
        "--download",
        type=types.dataset,
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
        type=types.whole,
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
    "batch_size": _argument("--batch-size", type=types.positive, default=10, help="clips encoded at a time (10)"),
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


@functools.cache
def declared(name: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the flags and settings of an argument, as argparse takes them; `name` may end in `SEVERAL`."""
    flags, settings = ARGUMENTS[name.removesuffix(SEVERAL)]
    if name.endswith(SEVERAL):
        settings = settings | {"nargs": "+", "default": [settings["default"]]}
    return flags, settings


PROMPTS = declared(f"text_augmentation{SEVERAL}")[1]["default"]
"""The very list of prompts that features.py makes where none are named, and then of no test-only dataset."""

SPLITS = "dataset train_shot max_val_shot seed data_dir indices_dir".split()
FEATURES = (
    "dataset train_shot max_val_shot seed clip_encoder clip_weights image_layer_idx+ text_layer_idx+ text_augmentation+"
    " image_augmentation image_views precision decode store_dtype test_batch_size num_workers device data_dir"
    " indices_dir feature_dir"
).split()
TRAIN = (
    "modality method classifier_head classifier_init logit hyperparams dataset train_shot max_val_shot seed"
    " clip_encoder clip_weights image_layer_idx text_layer_idx text_augmentation image_augmentation image_views"
    " max_iter test save_heads executor max_memory device indices_dir feature_dir result_dir"
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
