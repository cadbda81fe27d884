"""Average tables of eval.py over datasets. Several tables are compared in one.

    python average.py \\
        --name all_RN50_linear_hand_crafted_flip_1_cross_modal_text_wiseft_False

Writes average_results/<name>/shot_<s>.csv (datasets and their average) and
summary.csv (averages by shots), and replaces files of an earlier table.
"""

from pathlib import Path

from engine import config
from engine.results import base_to_new, tables


def main() -> None:
    args = config.parser(__doc__, "average.py").parse_args()
    summaries = {}
    for name in args.name:
        table = tables.read_method(name, args.eval_dir)
        folder = Path(args.avg_dir) / name
        summaries[name] = tables.write_averages(table, folder)
        print(f"{folder}: average of {', '.join(table['dataset'].unique())}")
    methods = base_to_new.by_classes(tables.label_summaries(summaries))
    print("\ntest accuracy (%) by training images per class")
    print(tables.comparison(methods).to_string(float_format="{:.2f}".format))
    if args.plot:
        from engine.results.plots import accuracy_against_shots  # imports matplotlib, which takes a second

        accuracy_against_shots(methods, args.title, Path(args.plot))
        print(f"\nplot: {args.plot}")


if __name__ == "__main__":
    config.run(main)
