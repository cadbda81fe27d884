"""The paper's numbers: all of them are read, and every row is in a table."""

import csv
from dataclasses import replace

import pytest

from engine.methods import METHODS as OURS
from engine.paper import layout, printed
from engine.paper.layout import METHODS, TABLES, Coordinates
from engine.training.schedule import MAX_ITER


def rows_of_file():
    with printed.PATH.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_no_number_of_the_file_is_lost():
    """Two lines of the file with the same row, dataset and shots would become one."""
    rows = rows_of_file()
    assert len(rows) == 1054
    own = set(TABLES) - set(printed.EXCERPTS)
    assert sum(len(printed.published(number)) for number in own) == len(rows)
    assert {int(row["table"]) for row in rows} == own


def test_excerpts_are_two_rows_of_their_tables():
    for number, (whole, methods) in printed.EXCERPTS.items():
        assert {line.method for line in printed.printed_rows(number)} == set(methods)
        assert printed.published(number).items() <= printed.published(whole).items()


@pytest.mark.parametrize("number", TABLES)
def test_every_number_has_a_cell_in_its_table(number):
    esc = TABLES[number].kind == "esc"
    scope = layout.esc_scope(number, demo=False) if esc else layout.paper_scope(number, [1, 2, 3])
    places = {
        (line, column.dataset, column.shots if row.shots is None else row.shots)
        for line, row in layout.rows(number, scope)
        for column in layout.columns(number, scope)
    }
    assert printed.published(number).keys() <= places
    assert all(line.method in METHODS for line in printed.printed_rows(number))


def test_an_encoder_that_the_paper_lacks_has_its_methods():
    """In the order of --clip-encoder; Table 14 has fewer methods for its second backbone than for its first."""
    scope = layout.paper_scope(14, [1])
    own = layout.Scope(scope.datasets, (1,), (1,), {"ViT-B/16": "ViT-B-16", "mine": "mine"})
    found = [(line.backbone, line.method, line.modality) for line, _ in layout.rows(14, own)]
    of_paper = [(line.backbone, line.method, line.modality) for line in printed.printed_rows(14)]
    assert found == [row for row in of_paper if row[0] == "ViT-B/16"] + [
        ("mine", *row[1:]) for row in of_paper if row[0] == "RN50"
    ]


def test_columns_of_shifted_sets_come_with_their_dataset():
    scope = layout.Scope(("demo",), (16,), (1,), {"RN50": "RN50"})
    tests = ["demo", "demo_v2", "demo_sketch", "demo_a", "demo_r"]
    assert layout.columns(8, scope) == [Coordinates(name) for name in tests]


def test_trials_leave_methods_with_a_length_of_their_own_as_they_are():
    """The commands that fill such a table would otherwise name --max-iter, which train.py refuses for them."""
    short = replace(layout.paper_scope(2, [1]), max_iter=100)
    found = {}
    for row in printed.printed_rows(2):
        if mode := METHODS[row.method].mode:
            found[mode] = layout.cell(row, "dtd", 1, 1, short).max_iter
    assert found == {mode: 100 if OURS[mode].fit.takes_max_iter else MAX_ITER for mode in found}
    assert set(found.values()) == {100, MAX_ITER}
