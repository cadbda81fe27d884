"""The table of ESC-50 and what may be wrong with it."""

import pytest

from engine.datasets import esc50
from engine.datasets.checks import NotInstalled
from engine.errors import UserError

HEADER = "filename,fold,target,category,esc10,src_file,take"
ROWS = ["1-1-A-3.wav,1,3,cow,False,1,A", "2-2-A-0.wav,2,0,dog,True,2,A", "1-3-A-0.wav,1,0,dog,True,3,A"]


@pytest.fixture
def install(tmp_path):
    """`install(rows)`: the dataset with these rows of its table and a file for each clip that is named."""

    def write(rows, header=HEADER, encoding="utf-8"):
        (tmp_path / "meta").mkdir()
        (tmp_path / "meta" / "esc50.csv").write_text("\n".join([header, *rows, ""]), encoding=encoding)
        (tmp_path / "audio").mkdir()
        for row in ROWS:
            (tmp_path / "audio" / row.split(",")[0]).touch()
        return tmp_path

    return write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_clips_are_in_metadata_order(install, encoding):
    folder = install(ROWS, encoding=encoding)
    sounds = esc50.load(folder)
    assert sounds.clips[0] == esc50.Clip("audio/1-1-A-3.wav", 1, 3, "cow")
    assert sounds.folds == {1: [0, 2], 2: [1]}
    assert sounds.file(1) == folder / "audio" / "2-2-A-0.wav"


@pytest.mark.parametrize("change", [("1-1-A-3.wav,1,3", "1-1-A-3.wav,2,3"), ("cow", "calf"), (",3,cow", ",4,cow")])
def test_another_list_has_another_digest(install, change):
    folder = install(ROWS)
    before = esc50.load(folder).digest()
    table = folder / "meta" / "esc50.csv"
    table.write_text(table.read_text().replace(*change))
    assert esc50.load(folder).digest() != before


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([], HEADER, "lists no clips"),
        (ROWS, HEADER.replace("fold", "part"), "has no column fold"),
        ([*ROWS, "1-3-A-0.wav,x,0,dog,True,3,A"], HEADER, "line 5: fold and target must be whole numbers"),
        ([*ROWS, "1-3-A-0.wav"], HEADER, "line 5: fold and target must be whole numbers"),
        ([*ROWS, "1-3-A-0.wav,1,-1,dog,True,3,A"], HEADER, "line 5: a clip needs"),
        ([*ROWS, ROWS[0]], HEADER, "audio/1-1-A-3.wav is listed twice"),
        ([*ROWS, "9.wav,1,0,cat,True,3,A"], HEADER, "class 0 has two names, dog and cat"),
    ],
)
def test_what_is_no_such_table(install, rows, header, message):
    with pytest.raises(UserError, match=message) as error:
        esc50.load(install(rows, header))
    assert "esc50.csv" in str(error.value)


def test_what_is_missing_is_said_with_what_to_download(install, tmp_path):
    with pytest.raises(NotInstalled, match=r"meta/esc50.csv does not exist.\nGet `master.zip`.*ESC-50-master"):
        esc50.load(tmp_path)
    with pytest.raises(NotInstalled, match=r"1 of its 4 clips are not in .*: audio/9.wav.\nGet"):
        esc50.load(install([*ROWS, "9.wav,1,5,cat,True,3,A"]))
