"""Classify images with a classifier that train.py --save-heads saved.

    python predict.py --run experiments/dtd-shot_16-seed_1 a.jpg folder/
    ls *.jpg | python predict.py --run experiments/dtd-shot_16-seed_1 --list -
    python predict.py --run experiments/dtd-shot_16-seed_1 --export dtd.onnx

Prints the --top-k most probable classes of each image, in the order of the
images: as CSV one line per class (image, class, probability), as JSON lines one
line per image. --reject P also marks unsure predictions. Unreadable images are
listed on stderr and skipped; the exit status is then 1. --export writes an ONNX
model: from uint8 [n, 3, size, size], resized and cropped, to probabilities
[n, C].
"""

import argparse
import sys
from pathlib import Path

from engine import config, terminal
from engine.datasets.image_files import find_images
from engine.errors import UserError
from engine.results.predictions import csv_header, format_predictions


def main() -> int | None:
    args = config.parser(__doc__, "predict.py").parse_args()
    files, notes = find_images(args.images, terminal.read_file_list(args.list) if args.list else [])
    print(*(f"note: {note}\n" for note in notes), sep="", end="", file=sys.stderr)
    if not files and not args.export:
        raise UserError("no images: list files or folders, or use --list FILE (- is stdin)")
    if files and args.export:
        raise UserError("--export takes no images: remove them")
    if args.reject is not None and (args.export or args.raw):
        raise UserError("--reject needs images and calibrated probabilities: use neither --export nor --raw with it")
    # slow imports (torch, open_clip)
    from engine.classifier.arguments import load, threshold

    classifier = load(args)
    below, note = threshold(args, classifier)
    if note:
        print(note, file=sys.stderr)
    if not args.export:
        return predict(args, classifier, files, below)
    from engine.classifier.export import export

    export(classifier, Path(args.export))
    print(args.export)


def predict(args: argparse.Namespace, classifier, files: list[str], threshold: float | None) -> int:
    """Print the predictions for each of `files`; return the exit status."""
    from engine.classifier.images import classify

    terminal.prepare_data_output()
    how = {"top_k": args.top_k, "batch_size": args.test_batch_size}
    how["workers"] = config.workers(args, classifier.device.type)
    unreadable = 0
    if args.format == "csv":
        print(csv_header(threshold))
    with terminal.bar(total=len(files), unit="image", disable=sys.stdout.isatty()) as bar:
        for file, found in classify(classifier, files, **how):
            if isinstance(found, str):
                unreadable += 1
                bar.write(f"{file} cannot be read: {found}", file=sys.stderr)
            else:
                print(format_predictions(file, found, args.format, threshold), flush=True)
            bar.update()
    if unreadable:
        print(f"{unreadable} of {len(files)} images cannot be read", file=sys.stderr)
    return 1 if unreadable else 0


if __name__ == "__main__":
    config.run(main, kept="the printed predictions are complete")
