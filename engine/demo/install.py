"""Draw the demo dataset and its four shifted test sets into the data directory, as if they were downloaded.

    python -m engine.demo.install [DATA_DIR]

DATA_DIR/demo/             images/<class>/<nnn>.png, split_demo.json {"train": [[path, label, class name], ...], ...}
DATA_DIR/demo_v2/          the same style, drawn again       classnames.txt, images/<label>/<nnn>.png
DATA_DIR/demo_sketch/      pencil drawings                   classnames.txt, images/<id>/<nnn>.png
DATA_DIR/demo_a/           hard pictures, 12 of the classes  classnames.txt, images/<id>/<nnn>.png
DATA_DIR/demo_r/           renditions, 12 of the classes     classnames.txt, images/<id>/<nnn>.png

The split file and each classnames.txt are written last. A folder with that file and this version's stamp in world.json
is complete and left alone. With the same versions of numpy and Pillow, files are identical byte for byte.
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
SPLITS = {"train": 32, "val": 8, "test": 50}  # images per class
SHIFTED_IMAGES = 20  # per class
_STAMP = {"version": VERSION, "seed": SEED}
CLASSNAMES = tuple(kind.name for kind in world.HELD_OUT)


@dataclass(frozen=True)
class ShiftedSet:
    """A test set in another style, like one of ImageNet's variants. Its name is also its folder's and its style's."""

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
    """Return the id of a class, similar to WordNet's: sorted ids are in label order."""
    return f"d{label + 1:07d}"


def install(
    data_dir: Path, progress: Callable[[int, int], None] | None = None, sets: Collection[str] | None = None
) -> None:
    """Draw the demo dataset and its shifted test sets under `data_dir`; leave complete ones untouched.

    `sets` are the names of the wanted sets, None means all. `progress(done, total)` is called after each drawn picture.
    A set is drawn again if its installation was interrupted or another version of this module made it. Several
    processes may install at once.
    """
    jobs = _missing_jobs(data_dir, sets)
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
    """Return the number of pictures that `install` would draw."""
    return sum(len(job.pictures) for job in _missing_jobs(data_dir, sets))


def _missing_jobs(data_dir: Path, sets: Collection[str] | None) -> list[_Job]:
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
    """A folder to fill: its pictures, then the stamp of their version, then the list of pictures."""

    folder: Path
    pictures: list[_Picture]
    list_name: str
    list_text: str

    def is_complete(self) -> bool:
        return (self.folder / self.list_name).exists() and self._read_stamp() == _STAMP

    def remove_other_version(self) -> None:
        """Remove the files of another version, which may have other folders."""
        if self._read_stamp() not in (None, _STAMP):
            (self.folder / self.list_name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / "images", ignore_errors=True)

    def finish(self) -> None:
        write_json(self.folder / "world.json", _STAMP)
        write_text(self.folder / self.list_name, self.list_text)

    def _read_stamp(self) -> dict | None:
        """Return the stamp of the pictures; None if it is missing or unreadable."""
        try:
            return read_json(self.folder / "world.json")
        except UserError:
            return None


def _jobs(data_dir: Path) -> Iterator[_Job]:
    yield _demo_job(data_dir / "demo")
    for shifted in SHIFTED_SETS:
        yield _shifted_job(shifted, data_dir / shifted.name)


def _demo_job(folder: Path) -> _Job:
    rows: dict[str, list] = {split: [] for split in SPLITS}
    pictures = []
    for label, kind in enumerate(world.HELD_OUT):
        index = 0
        for split, count in SPLITS.items():
            for _ in range(count):
                name = f"{kind.name.replace(' ', '_')}/{_file_name(index)}"
                rows[split].append([name, label, kind.name])
                pictures.append(_Picture(folder / "images" / name, kind, "demo", f"demo {kind.name}", index))
                index += 1
    return _Job(folder, pictures, "split_demo.json", json.dumps(rows))


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
    """Return a file name with the version, so that cached features of older pictures do not match newer ones."""
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
    from engine import config  # only scripts import config

    config.run(main)
