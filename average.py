"""Average tables of eval.py over datasets; several names are shown side by side, and --plot draws them.

    python average.py --name all_RN50_linear_hand_crafted_flip_1_cross_modal_text_wiseft_False

Writes average_results/<name>/shot_<s>.csv (each dataset, and their average) and summary.csv (the averages by shots),
in place of those of an earlier table.
"""

from pathlib import Path

from engine import config
from engine.results import tables


def main() -> None:
    args = config.parser(__doc__, "name", "eval_dir", "avg_dir", "plot", "title").parse_args()
    summaries = {}
    for name in args.name:
        table = tables.read_method(name, args.eval_dir)
        folder = Path(args.avg_dir) / name
        summaries[name] = tables.write_averages(table, folder)
        print(f"{folder}: average of {', '.join(table['dataset'].unique())}")
    methods = tables.labelled(summaries)
    print("\ntest accuracy (%) by training images per class")
    print(tables.comparison(methods).to_string(float_format="{:.2f}".format))
    if args.plot:
        from engine.results.plots import accuracy_against_shots  # matplotlib takes a second to import

        accuracy_against_shots(methods, args.title, Path(args.plot))
        print(f"\nplot: {args.plot}")


if __name__ == "__main__":
    config.run(main)
