"""Check the installation, or download datasets.

    python check.py
    python check.py --dataset dtd eurosat --clip-encoder RN50
    python check.py --download dtd eurosat

Prints a read-only report: library versions, GPUs, encoder weights, datasets,
splits, cached features and runs. Each finding is `ok`, a `note` or `WRONG`;
the exit status is 1 if anything is wrong. A dataset or encoder that is not
installed is a note, unless --dataset or --clip-encoder names it: then it is
wrong.

--download puts datasets where DATASETS.md describes, resumes interrupted
downloads, and prints any manual steps. Nothing else is ever changed.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import closing

from engine import check, config, terminal
from engine.errors import UserError


def main() -> int:
    args = config.parser(__doc__, "check.py").parse_args()
    if args.clip_weights and not args.clip_encoder:
        raise UserError("--clip-weights needs --clip-encoder, the architecture of the weights")
    if args.clip_encoder:
        config.check_encoders(args)
    if args.download:
        return download(args)
    return print_sections(check.installation(build_options(args)))


def build_options(args: argparse.Namespace) -> check.CheckOptions:
    places = args.data_dir, args.indices_dir, args.feature_dir, args.result_dir
    return check.CheckOptions(args.download or args.dataset, args.clip_encoder, args.clip_weights, *places)


def print_sections(sections: Iterable[check.Section]) -> int:
    """Print each section as soon as it is complete; return the exit status."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = min(120, max(40, shutil.get_terminal_size((100, 24)).columns))
    wrong = 0
    for title, findings in sections:
        print(check.format_section(title, findings, width, colour), flush=True)
        wrong += sum(finding.state == check.WRONG for finding in findings)
    return 1 if wrong else 0


def download(args: argparse.Namespace) -> int:
    """Download each dataset, even if others fail, then check them; return the exit status."""
    from engine.download import download

    steps: dict[str, list[str]] = {}
    for name in dict.fromkeys(args.download):
        with closing(terminal.Bars()) as bar:
            try:
                steps[name] = download(name, args.data_dir, bar.show)
            except (UserError, OSError) as error:
                steps[name] = [str(error)]
    for name, remaining in steps.items():
        for step in remaining:
            print(step if step.startswith(f"{name}:") else f"{name}: {step}", end="\n\n", file=sys.stderr)
    options = build_options(args)
    return print_sections([check.dataset_section(options, check.inspect_datasets(options))])


if __name__ == "__main__":
    config.run(main)
