"""Encode the sounds of ESC-50 with AudioCLIP, once, for imagenet_esc.py.

    cd audioclip && python audio_features.py

First edit PATH and CHECKPOINT at the top of this file, or use --esc-dir and
--checkpoint. Writes one feature file per fold (five). Stored folds are
skipped: rerun the same command to resume. Stored folds with other weights,
another list of clips, or another --audio-scale, --mode or --batch-size are an
error.

The defaults are the paper's: samples in [-1, 1], train() mode, batches of 10
in metadata order.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this script is one folder below the packages it imports

from engine import config, files, released, terminal  # noqa: E402
from engine.config import default  # noqa: E402
from engine.datasets import esc50  # noqa: E402
from engine.errors import UserError  # noqa: E402

# Relative paths here, and FEATURE_DIR, are relative to the project's folder, not to the current one.
PATH = f"{default.DATA_DIR}/ESC-50-master"
CHECKPOINT = "audioclip/AudioCLIP-Partial-Training.pt"


def main() -> None:
    parser = config.parser(__doc__, "audio_features.py")
    parser.set_defaults(esc_dir=ROOT / PATH, checkpoint=ROOT / CHECKPOINT, feature_dir=ROOT / default.FEATURE_DIR)
    args = parser.parse_args()
    dataset = load_inputs(Path(args.esc_dir), Path(args.checkpoint))
    sizes = {fold: len(positions) for fold, positions in dataset.folds.items()}
    device = config.device(args)
    # slow imports (torch) only after the inputs are found
    from audioclip import checkpoint, frontend
    from engine.features import audio

    audio.check_batches(sizes, args.audio_mode, args.batch_size, args.force)
    encoder = checkpoint.load_encoder(Path(args.checkpoint), device)
    settings = {"audio_scale": args.audio_scale, "mode": args.audio_mode, "batch_size": args.batch_size}
    source = audio.AudioProvenance(audio.ENCODER, encoder.digest, dataset.digest(), len(dataset.clips), **settings)
    folder = audio.folds_dir(args.feature_dir)
    missing = audio.missing_folds(folder, source, sizes)
    clips = sum(sizes[fold] for fold in missing)
    print(f"{folder}: {len(sizes)} folds, {len(missing)} to make: {clips} clips to encode on {device}", flush=True)
    if missing:
        files.require_writable(folder)
        if args.audio_mode == "eval" and args.audio_scale == 1:
            print(
                "note: eval() mode expects the 16-bit range; without --audio-scale 32768 features are poor",
                flush=True,
            )
        positions = [position for fold in missing for position in dataset.folds[fold]]
        for note in audio.check_formats(dataset, positions, frontend.RATE, frontend.SAMPLES, args.resample):
            print(f"note: {note}", flush=True)
        extract(args, dataset, encoder, source, missing)


def load_inputs(esc_dir: Path, weights: Path) -> esc50.Sounds:
    """Return the list of sounds. Raises one UserError for both a bad list and missing weights."""
    faults = []
    for load in (partial(released.require_audioclip, weights), partial(esc50.load, esc_dir)):
        try:
            loaded = load()
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(reversed(faults)))
    return loaded


def extract(args: argparse.Namespace, dataset, encoder, source, missing: list[int]) -> None:
    """Make the missing folds. Skip folds with unusable files, and raise CorruptSounds for these at the end."""
    from audioclip import frontend
    from engine import sounds
    from engine.features import audio

    folder, corrupt = audio.folds_dir(args.feature_dir), []
    read = partial(sounds.read, rate=frontend.RATE, length=frontend.SAMPLES, resample=args.resample)
    with terminal.bar(total=sum(len(dataset.folds[fold]) for fold in missing), unit="clip") as bar:
        for fold in missing:
            bar.set_description(f"fold {fold}")
            try:
                made = audio.extract_fold(dataset, fold, source, encoder.fresh(source.mode), read, bar.update)
            except audio.CorruptSounds as error:
                corrupt += error.lines
            else:
                audio.write_fold(folder, fold, made)
    if corrupt:
        raise audio.CorruptSounds(corrupt)


if __name__ == "__main__":
    config.run(main)
