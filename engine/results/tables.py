"""Tables from run records: accuracy by dataset and shots, and averages over datasets (section 5 of the protocol).

Accuracies are percentages; standard deviations are over seeds, of the population.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from engine import datasets, templates
from engine.datasets import halves
from engine.datasets.checks import list_preview
from engine.datasets.few_shot import MAX_VAL_SHOT, Shots, parse_shots
from engine.errors import UserError
from engine.files import write_text
from engine.results.runs import (
    EXTRACTION_KEYS,
    NEW,
    RATIOS,
    TEST,
    TRAINED,
    WISEFT,
    ZEROSHOT,
    Cell,
    Record,
    describe_input,
    read_cell,
    runs_digest,
    selected,
    spell_modality,
)
from engine.training.schedule import MAX_ITER

COLUMNS = ["dataset", "shots", "seeds", "mean", "std", "zeroshot", "method", "runs"]
"""Columns of a method's table, which has a row per dataset and shots; `runs` is the digest of the row's runs."""
PERCENTAGES = ["mean", "std", "zeroshot"]
HARMONIC = {"harmonic": ("mean", "new_mean"), "zeroshot_harmonic": ("zeroshot", "new_zeroshot")}
"""The harmonic means of base and new classes, and the columns that each is of."""
NEW_COLUMNS = [*(f"new_{name}" for name in PERCENTAGES), *HARMONIC]
"""Further percentages, for runs that are trained on base classes and tested on new ones."""


def method_name(cell: Cell, mode: str, wise_ft: float) -> str:
    """Return the name of a method's table in the authors' spelling, where init `zeroshot` is `text`.

    `wise_ft` is the ratio of WiSE-FT: False is 0 and True 0.5.
    """
    ratio = {RATIOS[TRAINED]: False, RATIOS[WISEFT]: True}.get(wise_ft, wise_ft)
    init = "text" if cell.init == "zeroshot" else cell.init
    name = (
        f"all_{cell.encoder}_{mode}_{cell.text_augmentation}_{cell.image_augmentation}_{cell.image_views}"
        f"_{cell.modality}_{init}_wiseft_{ratio}"
    )
    if cell.max_val_shot != MAX_VAL_SHOT:
        name += f"_val_{cell.max_val_shot}"
    if cell.classes != halves.ALL:
        name += f"_classes_{cell.classes}"
    return name if cell.max_iter == MAX_ITER else f"{name}_iter_{cell.max_iter}"


def method_label(cell: Cell, mode: str, wise_ft: float) -> str:
    """Return the label of a method, with this ratio of WiSE-FT, for tables and plots."""
    is_default = (cell.modality, cell.init) in (("cross_modal", "zeroshot"), ("uni_modal", "random"))
    init = "" if is_default else f", {cell.init} init"
    ratio = {RATIOS[TRAINED]: "", RATIOS[WISEFT]: " WiSE-FT"}.get(wise_ft, f" WiSE-FT {wise_ft}")
    classes = "" if cell.classes == halves.ALL else f", {cell.classes} classes"
    return f"{spell_modality(cell.modality)} {mode}{ratio}{init}{classes}"


def selected_runs(cells: list[Cell], result_dir: str | Path) -> tuple[dict[Cell, Record], list[Cell]]:
    """Return the selected run of each cell, and the cells with an incomplete grid or a missing test."""
    runs = {cell: selected(read_cell(cell, result_dir)) for cell in cells}
    tested = {cell: run for cell, run in runs.items() if run is not None and run.tested}
    complete = {cell: run for cell, run in tested.items() if NEW in run.shifted or not cell.tests_new}
    return complete, [cell for cell in cells if cell not in complete]


def check_inputs(runs: dict[Cell, Record]) -> None:
    """Raise UserError if the runs of one table differ in their inputs.

    Runs must share the encoder's weights; runs on one dataset must share images and prompts, and how the features of
    these were made. A sweep checks this within a cell; this function checks it across cells. The digests of train and
    val are of the whole lists, but for a custom dataset of the images of the few-shot split.
    """
    expected: dict[tuple[str, str], tuple[Cell, dict[str, str]]] = {}
    for cell, run in runs.items():
        # the stored inputs of layers may have another type than final features
        made = f"{cell.encoder} {cell.dataset} {cell.image_layer} {cell.text_layer}"
        scopes = {"encoder": cell.encoder, "text": f"{cell.dataset} {cell.text_augmentation}"} | dict.fromkeys(
            EXTRACTION_KEYS, made
        )
        if datasets.is_custom(cell.dataset):
            scopes |= dict.fromkeys(("train", "val"), f"{cell.dataset} {cell.shots} {cell.seed}")
        for name in dict.fromkeys((*run.inputs, *EXTRACTION_KEYS)):
            if name == "split" or (name == "text" and cell.text_augmentation == templates.MINING):
                continue  # differs between shots and seeds
            other, inputs = expected.setdefault((name, scopes.get(name, cell.dataset)), (cell, run.inputs))
            if run.inputs.get(name) != inputs.get(name):
                raise UserError(
                    f"{cell} and {other} cannot be in one table: their {name} differs ("
                    f"{describe_input(run.inputs, name)} and"
                    f" {describe_input(inputs, name)}). Train one of them again, with the features of the other"
                )


def method_table(runs: dict[Cell, Record], label: str, accuracies: Mapping[Cell, Mapping[str, float]]) -> pd.DataFrame:
    """Return mean and standard deviation over seeds of the test accuracy of selected runs, per dataset and shots.

    `accuracies`, 0 to 1, are by run and set: of its trained classifier, or its WiSE-FT. Runs that are tested on new
    classes have `NEW_COLUMNS` too.
    """
    table = _over_seeds(runs, accuracies, TEST).assign(method=label)
    keys = zip(table["dataset"], table["shots"], strict=True)
    runs_of_rows = [[run for cell, run in runs.items() if (cell.dataset, cell.shots) == key] for key in keys]
    table = table.assign(runs=list(map(runs_digest, runs_of_rows)))[COLUMNS]
    if next(iter(runs)).tests_new:
        of_new = _over_seeds(runs, accuracies, NEW)
        table = with_harmonic(table.assign(**{f"new_{name}": of_new[name] for name in PERCENTAGES}))
    return table.round(4)


def with_harmonic(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of base and new classes with the harmonic mean of both in each row (CoCoOp)."""
    pairs = {name: (table[base], table[new]) for name, (base, new) in HARMONIC.items()}
    return table.assign(**{name: (2 * base * new / (base + new)).fillna(0.0) for name, (base, new) in pairs.items()})


def _over_seeds(runs: dict[Cell, Record], accuracies: Mapping[Cell, Mapping[str, float]], of_set: str) -> pd.DataFrame:
    """Return seeds and percentages of a test set by dataset and shots."""
    rows = pd.DataFrame(
        {
            "dataset": cell.dataset,
            "shots": cell.shots,
            "seed": cell.seed,
            "accuracy": 100 * accuracies[cell][of_set],
            "zeroshot": 100 * (np.nan if (own := run.accuracy(ZEROSHOT, of_set)) is None else own),
        }
        for cell, run in runs.items()
    )
    table = rows.groupby(["dataset", "shots"], sort=False).agg(
        seeds=("seed", lambda seeds: " ".join(map(str, seeds))),
        mean=("accuracy", "mean"),
        std=("accuracy", lambda accuracies: accuracies.std(ddof=0)),
        zeroshot=("zeroshot", "mean"),
    )
    return table.reset_index()


def has_new(table: pd.DataFrame) -> bool:
    """Return whether a table, or its averages, has the columns of new classes."""
    return NEW_COLUMNS[0] in table


def percentages(table: pd.DataFrame) -> list[str]:
    """Return the columns of a table that are percentages."""
    return [name for name in (*PERCENTAGES, *NEW_COLUMNS) if name in table]


def by_shots(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and deviation of a method as text, with a row per dataset and a column per shots."""
    shown = table.assign(accuracy=spread(table)).pivot(index="dataset", columns="shots", values="accuracy")
    return shown.reindex(table["dataset"].unique())


def on_screen(table: pd.DataFrame) -> str:
    """Return `by_shots` as text."""
    return by_shots(table).to_string()


def spread(table: pd.DataFrame, of: str = "") -> list[str]:
    """Return mean and deviation of each row as text, of the columns `<of>mean` and `<of>std`."""
    return [f"{mean:.2f} ± {std:.2f}" for mean, std in zip(table[f"{of}mean"], table[f"{of}std"], strict=True)]


def average(table: pd.DataFrame) -> dict[Shots, pd.DataFrame]:
    """Return, by shots, the rows of datasets and a last row `average`: the means of their means and deviations.

    Its harmonic means are of its own accuracies of base and new classes (CoCoOp).
    """
    by_shots = {}
    for shots, rows in table.groupby("shots"):
        rows = rows[["dataset", *percentages(table)]]
        last = rows.drop(columns="dataset").mean().to_frame().T.assign(dataset="average")
        last = with_harmonic(last) if has_new(table) else last
        by_shots[shots] = pd.concat([rows, last], ignore_index=True).round(4)
    return by_shots


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return the averages over datasets of a method by shots, with the number of datasets."""
    rows = [
        {
            "method": table["method"].iloc[0],
            "shots": shots,
            "datasets": len(rows) - 1,
            **rows.iloc[-1][percentages(table)],
        }
        for shots, rows in average(table).items()
    ]
    return pd.DataFrame(rows)


def label_summaries(summaries: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return summaries by method label, or by table name if two labels are equal."""
    labels = [summary["method"].iloc[0] for summary in summaries.values()]
    return dict(zip(labels, summaries.values(), strict=True)) if len(set(labels)) == len(labels) else summaries


def zeroshot_lines(summaries: dict[str, pd.DataFrame]) -> dict[str, pd.Series]:
    """Return zero-shot accuracy by shots (constant) for each summary; a single line if all summaries agree.

    Runs on imported features without texts have none.
    """
    lines = {f"zero-shot ({name})": summary.set_index("shots")["zeroshot"] for name, summary in summaries.items()}
    lines = {name: line for name, line in lines.items() if line.notna().any()}
    first = next(iter(lines.values()), None)
    return {"zero-shot": first} if lines and all(line.equals(first) for line in lines.values()) else lines


def comparison(summaries: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the mean accuracy of methods by shots, one row each, below the zero-shot row."""
    rows = zeroshot_lines(summaries) | {name: s.set_index("shots")["mean"] for name, s in summaries.items()}
    return pd.DataFrame([row.rename(name) for name, row in rows.items()])


def by_ratio(by_ratio: Mapping[float, pd.DataFrame]) -> pd.DataFrame:
    """Return the average over datasets of the mean accuracy, by shots and ratio of WiSE-FT."""
    return pd.DataFrame({f"{ratio:g}": summary(table).set_index("shots")["mean"] for ratio, table in by_ratio.items()})


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, atomically."""
    write_text(path, table.to_csv(index=False))


def write_method(table: pd.DataFrame, path: Path) -> list[str]:
    """Write a method's table; return a note on the entries of the table that it replaces, if it lacks any."""
    lost = not_covered(path, table)
    write_csv(table, path)
    return [f"{path}: replaces a table that also had {list_preview(lost)}"] * bool(lost)


def write_averages(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Write shot_<s>.csv and summary.csv of a method's table into `folder`, and return the summary.

    Files for shots of an earlier table are removed, so that all files in the folder belong to one table.
    """
    by_shots = {folder / f"shot_{shots}.csv": rows for shots, rows in average(table).items()}
    for path in set(folder.glob("shot_*.csv")) - by_shots.keys():
        path.unlink(missing_ok=True)  # another process may be averaging the same table
    for path, rows in by_shots.items():
        write_csv(rows, path)
    averages = summary(table)
    write_csv(averages, folder / "summary.csv")
    return averages


def not_covered(path: Path, table: pd.DataFrame) -> list[str]:
    """Return the datasets, shots and seeds in the existing table at `path` that are not in `table`."""
    layouts = [COLUMNS, COLUMNS + NEW_COLUMNS, COLUMNS[:-1]]  # earlier versions wrote no digests
    before = _read(path, layouts) if path.is_file() else None
    if before is None:
        return []
    kept = {(row.dataset, row.shots): row.seeds.split() for row in table.itertuples()}
    lost = {}
    for row in before.itertuples():
        gone = [seed for seed in row.seeds.split() if seed not in kept.get((row.dataset, row.shots), [])]
        if gone:
            lost[f"{row.dataset} {row.shots}-shot"] = gone
    return [f"{cell} {'seed' if len(seeds) == 1 else 'seeds'} {' '.join(seeds)}" for cell, seeds in lost.items()]


def read_method(name: str, eval_dir: str | Path) -> pd.DataFrame:
    """Load a table of eval.py. Raises UserError if it does not exist or is not in the format of eval.py."""
    path = Path(eval_dir) / f"{name}.csv"
    if not path.is_file():
        existing = sorted(p.stem for p in Path(eval_dir).glob("all_*.csv"))
        raise UserError(
            f"there is no table {path}; create it with eval.py. Tables there: {', '.join(existing) or 'none'}"
        )
    table = _read(path, [COLUMNS, COLUMNS + NEW_COLUMNS])
    if table is None:
        raise UserError(
            f"{path} does not have the columns {', '.join(COLUMNS)}, with numbers in {', '.join(PERCENTAGES)}; create"
            " it again with eval.py"
        )
    numbers = table[percentages(table)]
    faults = {
        "two rows with the same dataset and shots": table.duplicated(["dataset", "shots"]),
        # zero-shot accuracies of features without texts are blank
        "numbers that are not percentages": numbers.map(lambda number: number < 0 or number > 100).any(axis=1),
        "seeds that are not whole numbers": ~table["seeds"].str.fullmatch(r"\d+( \d+)*"),
    }
    for fault, rows in faults.items():
        if rows.any():
            named = [f"{row.dataset} {row.shots}-shot" for row in table[rows].itertuples()]
            raise UserError(f"{path} has {fault}: {list_preview(named)}; create it again with eval.py")
    return table


def _read(path: Path, layouts: list[list[str]]) -> pd.DataFrame | None:
    """Load a method's table; return None if the file does not have the columns of one of `layouts`."""
    try:  # pandas would read a single seed, or a digest without letters, as a number
        table = pd.read_csv(path, dtype={"shots": str, "seeds": str, "runs": str}, na_filter=False)
        if "shots" in table:
            table["shots"] = table["shots"].map(parse_shots)
        if "zeroshot" in table:
            table["zeroshot"] = pd.to_numeric(table["zeroshot"])  # of blanks NaN
    except ValueError:  # pandas raises it for files that are empty or not CSV
        return None
    if list(table.columns) not in layouts or table.empty:
        return None
    return table if all(map(is_numeric_dtype, (table[name] for name in percentages(table)))) else None
