"""Tables of base-to-new generalisation for people: base classes, new classes and their harmonic mean side by side."""

from __future__ import annotations

import pandas as pd

from engine.results.tables import PERCENTAGES, average, has_new, spread


def on_screen(table: pd.DataFrame) -> str:
    """Return a table of runs on base classes as text; columns of new classes are blank if they were not tested.

    Below several datasets, the rows `average` have the means over datasets.
    """
    averages = [rows.tail(1).assign(shots=shots) for shots, rows in average(table).items()]
    rows = pd.concat([table, *averages]) if table["dataset"].nunique() > 1 else table

    def numbers(column: str) -> object:
        return rows[column].map("{:.2f}".format) if column in rows else ""

    shown = rows[["dataset", "shots"]].assign(
        base=spread(rows),
        new=spread(rows, "new_") if has_new(rows) else "",
        H=numbers("harmonic"),
        zeroshot_base=numbers("zeroshot"),
        zeroshot_new=numbers("new_zeroshot"),
        zeroshot_h=numbers("zeroshot_harmonic"),
    )
    header = ["dataset", "shots", "base", "new", "H", "zero-shot: base", "new", "H"]
    return shown.to_string(index=False, header=header)


def by_classes(summaries: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return averages by label; an average of base and new classes becomes three: base, new and harmonic mean."""
    found = {}
    for label, summary in summaries.items():
        found[label] = summary
        if has_new(summary):
            new = {name: summary[f"new_{name}"] for name in PERCENTAGES}
            harmonic = {"mean": summary["harmonic"], "std": float("nan"), "zeroshot": summary["zeroshot_harmonic"]}
            found[f"{label}: new classes"] = summary.assign(**new)
            found[f"{label}: harmonic mean"] = summary.assign(**harmonic)
    return found
