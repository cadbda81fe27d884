"""Report how good classifiers are, and where they are wrong.

    python report.py --run experiments/photos-shot_all-seed_1
    python report.py --run RUN RUN --output reports/linear_or_adapter

A run is one that train.py --save-heads trained. It is measured on its stored
features, without its encoder unless layers of it were trained. Writes one HTML
page that needs no network, and its data: report.json, classes.csv,
confusions.csv and images.csv. Several runs are compared on one page.
"""

from pathlib import Path

from engine import config, files, terminal
from engine.errors import UserError


def main() -> None:
    args = config.parser(__doc__, "report.py").parse_args()
    # slow imports (torch), after the arguments are checked
    from engine.report.sections import images_of, section, titles
    from engine.report.write import write
    from engine.results.runs import runs_digest
    from engine.scores import open_run

    device = config.device(args)
    runs = [open_run(args, Path(run), device) for run in dict.fromkeys(args.run)]
    if args.dataset and (other := {run.cell.dataset for run in runs} - {args.dataset}):
        raise UserError(f"--dataset names {args.dataset}, but --run is of {', '.join(sorted(other))}")
    files.require_writable(Path(args.output or args.report_dir))
    with terminal.bar(total=sum(map(images_of, runs)), unit="image", unit_scale=True) as bar:
        named = enumerate(zip(titles(runs, args.wise_ft), runs, strict=True), start=1)
        sections = [section(number, title, run, args, bar.update) for number, (title, run) in named]
    title = sections[0].title if len(sections) == 1 else f"{len(sections)} classifiers"
    place = runs[0].cell.folder("").parts[0] if len(runs) == 1 else "comparison"
    averaged = f"-wise_ft_{args.wise_ft:g}" if args.wise_ft else ""
    digest = runs_digest(run.saved.run for run in runs)
    folder = Path(args.output or Path(args.report_dir) / f"{place}-{digest}{averaged}")
    for one in sections:
        accuracy, (low, high) = one.summary["accuracy"], one.summary["accuracy_95_percent"]
        terminal.say(f"{one.title}: test {accuracy:.1%} (95 % interval {low:.1%} to {high:.1%})")
    terminal.say(write(folder, title, sections))


if __name__ == "__main__":
    config.run(main, kept="a report that was written before is unchanged")
