"""Tables from run records alone: accuracy by dataset and shots, and averages over datasets (section 5 of the protocol).

Accuracies are percentages here; standard deviations are over seeds, of the population.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from engine import templates
from engine.datasets.checks import list_preview
from engine.datasets.few_shot import MAX_VAL_SHOT, Shots, parse_shots
from engine.errors import UserError
from engine.files import write_text
from engine.results.runs import (
    TRAINED,
    WAYS,
    WISEFT,
    ZEROSHOT,
    Cell,
    Record,
    input_of,
    read_cell,
    runs_digest,
    selected,
)
from engine.training.schedule import MAX_ITER

COLUMNS = ["dataset", "shots", "seeds", "mean", "std", "zeroshot", "method", "runs"]
"""Columns of a method's table: a row per dataset and shots; `runs` is the digest of the runs behind it."""
PERCENTAGES = ["mean", "std", "zeroshot"]


def method_name(cell: Cell, mode: str, wise_ft: bool) -> str:
    """The name of a method's table, as the authors spell it: init `zeroshot` is `text` there."""
    init = "text" if cell.init == "zeroshot" else cell.init
    name = (
        f"all_{cell.encoder}_{mode}_{cell.text_augmentation}_{cell.image_augmentation}_{cell.image_views}"
        f"_{cell.modality}_{init}_wiseft_{wise_ft}"
    )
    if cell.max_val_shot != MAX_VAL_SHOT:
        name += f"_val_{cell.max_val_shot}"
    return name if cell.max_iter == MAX_ITER else f"{name}_iter_{cell.max_iter}"


def method_label(cell: Cell, mode: str, wise_ft: bool) -> str:
    """The method in words, for tables and plots."""
    init = (
        ""
        if (cell.modality, cell.init) in (("cross_modal", "zeroshot"), ("uni_modal", "random"))
        else f", {cell.init} init"
    )
    return f"{cell.modality.replace('_', '-')} {mode}{' WiSE-FT' if wise_ft else ''}{init}"


def selected_runs(cells: list[Cell], result_dir: str | Path) -> tuple[dict[Cell, Record], list[Cell]]:
    """The run that validation selects in each cell, and the cells whose grid is incomplete or whose test is missing."""
    runs = {cell: selected(read_cell(cell, result_dir)) for cell in cells}
    done = {cell: run for cell, run in runs.items() if run is not None and run.tested}
    return done, [cell for cell in cells if cell not in done]


def check_inputs(runs: dict[Cell, Record]) -> None:
    """Raise UserError when runs that are to be averaged used other weights, or for one dataset other images or prompts.

    Features of the same images or prompts that were made in different ways are refused too. A sweep does not mix any of
    these within a cell; across cells they meet here for the first time.
    """
    first: dict[tuple[str, str], tuple[Cell, dict[str, str]]] = {}
    for cell, run in runs.items():
        # what is stored of the inputs of layers may have another type than final features
        made = f"{cell.encoder} {cell.dataset} {cell.image_layer} {cell.text_layer}"
        of = {"encoder": cell.encoder, "text": f"{cell.dataset} {cell.text_augmentation}"} | dict.fromkeys(WAYS, made)
        for name in dict.fromkeys((*run.inputs, *WAYS)):
            if name == "split" or (name == "text" and cell.text_augmentation == templates.MINING):
                continue  # each shot and seed has its own
            other, expected = first.setdefault((name, of.get(name, cell.dataset)), (cell, run.inputs))
            if run.inputs.get(name) != expected.get(name):
                raise UserError(
                    f"{cell} and {other} cannot be in one table: their {name} differs ({input_of(run.inputs, name)} and"
                    f" {input_of(expected, name)}). Train one of them again, with the features of the other"
                )


def method_table(runs: dict[Cell, Record], label: str, wise_ft: bool) -> pd.DataFrame:
    """Mean and standard deviation over seeds of the selected runs' test accuracy, per dataset and shots."""
    rows = pd.DataFrame(
        {
            "dataset": cell.dataset,
            "shots": cell.shots,
            "seed": cell.seed,
            "accuracy": 100 * run.accuracy(WISEFT if wise_ft else TRAINED),
            "zeroshot": 100 * run.accuracy(ZEROSHOT),
        }
        for cell, run in runs.items()
    )
    table = rows.groupby(["dataset", "shots"], sort=False).agg(
        seeds=("seed", lambda seeds: " ".join(map(str, seeds))),
        mean=("accuracy", "mean"),
        std=("accuracy", lambda accuracies: accuracies.std(ddof=0)),
        zeroshot=("zeroshot", "mean"),
    )
    table = table.reset_index().assign(method=label)
    keys = zip(table["dataset"], table["shots"], strict=True)
    of_row = [[run for cell, run in runs.items() if (cell.dataset, cell.shots) == key] for key in keys]
    return table.assign(runs=list(map(runs_digest, of_row)))[COLUMNS].round(4)


def average(table: pd.DataFrame) -> dict[Shots, pd.DataFrame]:
    """Per shots: each dataset's row and a last row `average`, the mean over datasets of means and of deviations."""
    by_shots = {}
    for shots, rows in table.groupby("shots"):
        rows = rows[["dataset", "mean", "std", "zeroshot"]]
        last = rows.drop(columns="dataset").mean().to_frame().T.assign(dataset="average")
        by_shots[shots] = pd.concat([rows, last], ignore_index=True).round(4)
    return by_shots


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A method's averages over datasets by shots, with the number of datasets behind each."""
    rows = [
        {
            "method": table["method"].iloc[0],
            "shots": shots,
            "datasets": len(rows) - 1,
            **rows.iloc[-1][["mean", "std", "zeroshot"]],
        }
        for shots, rows in average(table).items()
    ]
    return pd.DataFrame(rows)


def labelled(summaries: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Summaries by method, or by name of the table where methods of two tables read the same."""
    labels = [summary["method"].iloc[0] for summary in summaries.values()]
    return dict(zip(labels, summaries.values(), strict=True)) if len(set(labels)) == len(labels) else summaries


def zeroshot_lines(summaries: dict[str, pd.DataFrame]) -> dict[str, pd.Series]:
    """Zero-shot accuracy, which shots do not change, along the shots; one line where all summaries have the same."""
    lines = {f"zero-shot ({name})": summary.set_index("shots")["zeroshot"] for name, summary in summaries.items()}
    first = next(iter(lines.values()))
    return {"zero-shot": first} if all(line.equals(first) for line in lines.values()) else lines


def comparison(summaries: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Methods side by side: mean accuracy by shots, below the zero-shot classifier, which needs none."""
    rows = zeroshot_lines(summaries) | {name: s.set_index("shots")["mean"] for name, s in summaries.items()}
    return pd.DataFrame([row.rename(name) for name, row in rows.items()])


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, atomically."""
    write_text(path, table.to_csv(index=False))


def write_averages(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Write shot_<s>.csv and summary.csv of a method's table into `folder`, and return the summary.

    Shots that an earlier table had and this one lacks leave the folder: all its files speak of one table.
    """
    by_shots = {folder / f"shot_{shots}.csv": rows for shots, rows in average(table).items()}
    for path in set(folder.glob("shot_*.csv")) - by_shots.keys():
        path.unlink(missing_ok=True)  # another process may average the same table
    for path, rows in by_shots.items():
        write_csv(rows, path)
    averages = summary(table)
    write_csv(averages, folder / "summary.csv")
    return averages


def not_covered(path: Path, table: pd.DataFrame) -> list[str]:
    """What the table in `path`, if there is one, has beyond `table`: datasets and shots, with the seeds that go."""
    before = _read(path, [COLUMNS, COLUMNS[:-1]]) if path.is_file() else None  # earlier versions wrote no digests
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
    """The table that eval.py wrote. Raises UserError when it is not there, or not as eval.py writes it."""
    path = Path(eval_dir) / f"{name}.csv"
    if not path.is_file():
        there = sorted(p.stem for p in Path(eval_dir).glob("all_*.csv"))
        raise UserError(f"there is no {path}; eval.py writes it. Tables there: {', '.join(there) or 'none'}")
    table = _read(path, [COLUMNS])
    if table is None:
        raise UserError(
            f"{path} does not have the columns {', '.join(COLUMNS)}, or not with numbers in them; write it again with"
            " eval.py"
        )
    faults = {
        "a row that repeats the dataset and shots of another": table.duplicated(["dataset", "shots"]),
        "numbers that are not percentages": ~table[PERCENTAGES].map(lambda number: 0 <= number <= 100).all(axis=1),
        "seeds that are not whole numbers": ~table["seeds"].str.fullmatch(r"\d+( \d+)*"),
    }
    for fault, rows in faults.items():
        if rows.any():
            named = [f"{row.dataset} {row.shots}-shot" for row in table[rows].itertuples()]
            raise UserError(f"{path} has {fault}: {list_preview(named)}; write it again with eval.py")
    return table


def _read(path: Path, layouts: list[list[str]]) -> pd.DataFrame | None:
    """The method's table in a file; None when there is none with the columns of one of `layouts` in it."""
    try:  # a lone seed, or a digest without letters, would be a number
        table = pd.read_csv(path, dtype={"shots": str, "seeds": str, "runs": str}, na_filter=False)
        if "shots" in table:
            table["shots"] = table["shots"].map(parse_shots)
    except ValueError:  # what pandas raises for files that are empty or no CSV
        return None
    if list(table.columns) not in layouts or table.empty:
        return None
    return table if all(map(is_numeric_dtype, (table[name] for name in PERCENTAGES))) else None
