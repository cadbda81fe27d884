"""Arguments of audioclip/audio_features.py: ESC-50 and the AudioCLIP encoder."""

from __future__ import annotations

from functools import partial

from engine.config import types
from engine.config.arguments.declare import AUDIO_FEATURES, Argument

_data, _encoder = (partial(Argument, group=group, scripts=(AUDIO_FEATURES,)) for group in ("data", "encoder"))

ARGUMENTS = [
    _data(
        "--esc-dir",
        metavar="DIR",
        help="the unpacked ESC-50 folder (default: PATH in the script, ESC-50-master in the data folder)",
    ),
    _data(
        "--resample",
        action="store_true",
        help="convert clips with another sample rate or several channels; without it they are an error",
    ),
    _encoder(
        "--checkpoint",
        metavar="FILE",
        help="AudioCLIP weights (default: CHECKPOINT in the script, AudioCLIP-Partial-Training.pt)",
    ),
    _encoder(
        "--audio-scale",
        type=types.integer,
        choices=[1, 32768],
        default=1,
        metavar="N",
        help="factor for samples in [-1, 1]: 1 (the paper's features) or 32768 (the range the network was trained on)",
    ),
    _encoder(
        "--mode",
        dest="audio_mode",
        choices=["train", "eval"],
        default="train",
        help="BatchNorm statistics: train (of the batch, as in the paper) or eval (running averages)",
    ),
    _encoder("--batch-size", type=types.positive, default=10, metavar="N", help="clips per batch"),
    _encoder("--force", action="store_true", help="with --mode train: also encode folds whose last batch is not full"),
]
