"""Tables from run records alone: accuracy by dataset and shots, and averages over datasets (section 5 of the protocol).

Accuracies are percentages here; standard deviations are over seeds, of the population.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from engine.errors import UserError
from engine.files import write_text
from engine.results.runs import Cell, Record, read_cell, selected

COLUMNS = ["dataset", "shots", "seeds", "mean", "std", "zeroshot", "method"]
"""Columns of a method's table: a row per dataset and shots."""


def method_name(cell: Cell, mode: str, wise_ft: bool) -> str:
    """The name of a method's table, as the authors spell it: init `zeroshot` is `text` there."""
    init = "text" if cell.init == "zeroshot" else cell.init
    name = (
        f"all_{cell.encoder}_{mode}_{cell.text_augmentation}_{cell.image_augmentation}_{cell.image_views}"
        f"_{cell.modality}_{init}_wiseft_{wise_ft}"
    )
    return name + (f"_iter_{cell.max_iter}" if "iter_" in cell.folder("").name else "")


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


def method_table(runs: dict[Cell, Record], label: str, wise_ft: bool) -> pd.DataFrame:
    """Mean and standard deviation over seeds of the selected runs' test accuracy, per dataset and shots."""
    rows = pd.DataFrame(
        {
            "dataset": cell.dataset,
            "shots": cell.shots,
            "seed": cell.seed,
            "accuracy": 100 * (run.wiseft if wise_ft else run.trained).test,
            "zeroshot": 100 * run.zeroshot.test,
        }
        for cell, run in runs.items()
    )
    table = rows.groupby(["dataset", "shots"], sort=False).agg(
        seeds=("seed", lambda seeds: " ".join(map(str, seeds))),
        mean=("accuracy", "mean"),
        std=("accuracy", lambda accuracies: accuracies.std(ddof=0)),
        zeroshot=("zeroshot", "mean"),
    )
    return table.reset_index().assign(method=label)[COLUMNS].round(4)


def average(table: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """Per shots: each dataset's row and a last row `average`, the mean over datasets of means and of deviations."""
    by_shots = {}
    for shots, rows in table.groupby("shots"):
        rows = rows[["dataset", "mean", "std", "zeroshot"]]
        last = rows.drop(columns="dataset").mean().to_frame().T.assign(dataset="average")
        by_shots[int(shots)] = pd.concat([rows, last], ignore_index=True).round(4)
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


def comparison(summaries: list[pd.DataFrame]) -> pd.DataFrame:
    """Methods side by side, mean accuracy by shots; the zero-shot classifier, which needs none, is the first row."""
    first = summaries[0].set_index("shots")["zeroshot"].rename("zero-shot")
    return pd.DataFrame([first] + [s.set_index("shots")["mean"].rename(s["method"].iloc[0]) for s in summaries])


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, atomically."""
    write_text(path, table.to_csv(index=False))


def read_method(name: str, eval_dir: str | Path) -> pd.DataFrame:
    """The table that eval.py wrote. Raises UserError when it is not there or not such a table."""
    path = Path(eval_dir) / f"{name}.csv"
    if not path.is_file():
        there = sorted(p.stem for p in Path(eval_dir).glob("all_*.csv"))
        raise UserError(f"there is no {path}; eval.py writes it. Tables there: {', '.join(there) or 'none'}")
    table = pd.read_csv(path)
    if list(table.columns) != COLUMNS or table.empty:
        raise UserError(f"{path} does not have the columns {', '.join(COLUMNS)}; write it again with eval.py")
    return table
