"""Draw the demo dataset and its four shifted test sets into the data directory, like datasets someone downloaded.

    python -m engine.demo.install [DATA_DIR]

DATA_DIR/demo/             images/<class>/<nnn>.png, split_demo.json {"train": [[path, label, class name], ...], ...}
DATA_DIR/demo_v2/          the same style, drawn anew        classnames.txt, images/<label>/<nnn>.png
DATA_DIR/demo_sketch/      pencil drawings                   classnames.txt, images/<id>/<nnn>.png
DATA_DIR/demo_a/           hard pictures, 12 of the classes  classnames.txt, images/<id>/<nnn>.png
DATA_DIR/demo_r/           renditions, 12 of the classes     classnames.txt, images/<id>/<nnn>.png

The split file and each classnames.txt are written last: where one is, with this version's stamp in world.json, its
folder is complete and left alone. With the same versions of numpy and Pillow the files are the same, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from engine import terminal
from engine.demo import world
from engine.errors import UserError
from engine.files import read_json, write_atomically, write_json, write_text

VERSION = 1  # raise it whenever a picture, a class or the layout changes
SEED = 1
SPLITS = {"train": 32, "val": 8, "test": 50}  # images a class
SHIFTED_IMAGES = 20  # a class
_STAMP = {"version": VERSION, "seed": SEED}
CLASSNAMES = tuple(kind.name for kind in world.HELD_OUT)


@dataclass(frozen=True)
class ShiftedSet:
    """A test set in another style, after one of ImageNet's variants. Its name is its folder and its style's name."""

    name: str
    labels: tuple[int, ...] = tuple(range(len(CLASSNAMES)))
    folders_are_labels: bool = False

    def folder(self, label: int) -> str:
        return str(label) if self.folders_are_labels else class_id(label)


SHIFTED_SETS = (
    ShiftedSet("demo_v2", folders_are_labels=True),
    ShiftedSet("demo_sketch"),
    ShiftedSet("demo_a", labels=tuple(range(0, len(CLASSNAMES), 2))),
    ShiftedSet("demo_r", labels=tuple(range(1, len(CLASSNAMES), 2))),
)


def class_id(label: int) -> str:
    """The class's id in the manner of WordNet's: sorted ids are in label order."""
    return f"d{label + 1:07d}"


def install(
    data_dir: Path, progress: Callable[[int, int], None] | None = None, sets: Collection[str] | None = None
) -> None:
    """Put the demo dataset and its shifted test sets under `data_dir`; what is there already, whole, stays untouched.

    `sets` are the names of those that are wanted, None all.

    `progress(done, total)` is called after each picture, where there is anything to draw. A set whose installation was
    interrupted, or that another version of this module made, is drawn anew. Several processes may install at once.
    """
    jobs = _missing(data_dir, sets)
    total, done = sum(len(job.pictures) for job in jobs), 0
    for job in jobs:
        job.remove_other_version()
        for picture in job.pictures:
            picture.make()
            done += 1
            if progress is not None:
                progress(done, total)
        job.finish()


def count_missing_pictures(data_dir: Path, sets: Collection[str] | None = None) -> int:
    """How many pictures `install` would draw."""
    return sum(len(job.pictures) for job in _missing(data_dir, sets))


def _missing(data_dir: Path, sets: Collection[str] | None) -> list[_Job]:
    jobs = _jobs(Path(data_dir))
    return [job for job in jobs if (sets is None or job.folder.name in sets) and not job.is_complete()]


@dataclass(frozen=True)
class _Picture:
    path: Path
    kind: world.Kind
    style: str
    purpose: str
    index: int

    def make(self) -> None:
        rng = world.generator(SEED, self.purpose, self.index)
        image = world.draw(world.random_scene(self.kind, rng), world.STYLES[self.style], rng)
        write_atomically(self.path, lambda temporary: _save_png(image, temporary))


@dataclass(frozen=True)
class _Job:
    """One folder to fill: its pictures, then the stamp that says what made them, then the list of what is there."""

    folder: Path
    pictures: list[_Picture]
    list_name: str
    list_text: str

    def is_complete(self) -> bool:
        return (self.folder / self.list_name).exists() and self._stamp() == _STAMP

    def remove_other_version(self) -> None:
        """Clear away what another version made: its folders may be other ones than ours."""
        if self._stamp() not in (None, _STAMP):
            (self.folder / self.list_name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / "images", ignore_errors=True)

    def finish(self) -> None:
        write_json(self.folder / "world.json", _STAMP)
        write_text(self.folder / self.list_name, self.list_text)

    def _stamp(self) -> dict | None:
        """What made the pictures; None where nothing says so."""
        try:
            return read_json(self.folder / "world.json")
        except UserError:
            return None


def _jobs(data_dir: Path) -> Iterator[_Job]:
    yield _demo_job(data_dir / "demo")
    for shifted in SHIFTED_SETS:
        yield _shifted_job(shifted, data_dir / shifted.name)


def _demo_job(folder: Path) -> _Job:
    split: dict[str, list] = {part: [] for part in SPLITS}
    pictures = []
    for label, kind in enumerate(world.HELD_OUT):
        index = 0
        for part, count in SPLITS.items():
            for _ in range(count):
                name = f"{kind.name.replace(' ', '_')}/{_file_name(index)}"
                split[part].append([name, label, kind.name])
                pictures.append(_Picture(folder / "images" / name, kind, "demo", f"demo {kind.name}", index))
                index += 1
    return _Job(folder, pictures, "split_demo.json", json.dumps(split))


def _shifted_job(shifted: ShiftedSet, folder: Path) -> _Job:
    pictures = [
        _Picture(
            path=folder / "images" / shifted.folder(label) / _file_name(index),
            kind=world.HELD_OUT[label],
            style=shifted.name,
            purpose=f"{shifted.name} {CLASSNAMES[label]}",
            index=index,
        )
        for label in shifted.labels
        for index in range(SHIFTED_IMAGES)
    ]
    lines = "".join(f"{class_id(label)} {name}\n" for label, name in enumerate(CLASSNAMES))
    return _Job(folder, pictures, "classnames.txt", lines)


def _file_name(index: int) -> str:
    """The version is part of it, so that features of pictures that are drawn otherwise now are not taken for theirs."""
    return f"{index:03d}-v{VERSION}.png"


def _save_png(image: Image.Image, path: Path) -> None:
    image.save(path, format="PNG")


def main() -> None:
    from engine.config.default import DATA_DIR

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, nargs="?", default=Path(DATA_DIR), help="default: %(default)s")
    args = parser.parse_args()
    with terminal.bar(desc="drawing the demo", unit="picture") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        install(args.data_dir, show)
    terminal.say(f"{args.data_dir}: {', '.join(['demo', *(shifted.name for shifted in SHIFTED_SETS)])}")


if __name__ == "__main__":
    from engine import config  # which nothing under engine imports, but for scripts

    config.run(main)
