"""Compare the runs of two versions of the project: hyper-parameters, steps and accuracies must be bit-identical.

    python bench/same_records.py experiments_before experiments_after

Both folders must come from the same commands on the same machine (`bash demo.sh`, `bash adapter.sh`, ...; result
folders of imagenet_esc.py work too). Prints the differences; the exit status is 1 if there are any.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine.results.old_records import name_hparams  # noqa: E402
from engine.results.runs import read_record  # noqa: E402

NOT_COMPARED = {"seconds", "versions"}
"""Fields that differ from run to run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args()
    before, after = (runs_of(folder) for folder in (args.before, args.after))
    differences = [f"{name}: only in {args.before}" for name in before.keys() - after.keys()]
    differences += [f"{name}: only in {args.after}" for name in after.keys() - before.keys()]
    for name in sorted(before.keys() & after.keys()):
        fields = [key for key in before[name] | after[name] if before[name].get(key) != after[name].get(key)]
        differences += [f"{name}: {', '.join(fields)}"] * bool(fields)
    for line in sorted(differences)[:20]:
        print(line)
    print(f"{len(before.keys() & after.keys())} runs in both, {len(differences)} differences")
    sys.exit(1 if differences else 0)


def runs_of(folder: Path) -> dict[str, dict]:
    """Return the runs below a folder by relative path: records, and lines of ImageNet-ESC's files."""
    runs = {str(path.relative_to(folder)): asdict(read_record(path)) for path in folder.rglob("record.json")}
    for path in folder.rglob("*.jsonl"):
        lines = enumerate(path.read_text(encoding="utf-8").splitlines())
        runs |= {f"{path.relative_to(folder)}:{number}": _named(json.loads(line)) for number, line in lines}
    return {name: {k: v for k, v in run.items() if k not in NOT_COMPARED} for name, run in runs.items()}


def _named(run: dict) -> dict:
    return run | {"hyperparameters": name_hparams(run["hyperparameters"])}


if __name__ == "__main__":
    main()
