"""The feature store: raw CLIP features on disk, in append-only shards that are never changed once written.

    features/<encoder>/<dataset>/<split>-layer_<i>/<view>/<digest of its positions>.safetensors    images
    features/<encoder>/<dataset>/text-layer_<i>/<text augmentation>.safetensors                    prompts
    features/<encoder>/<dataset>/template_mining-<few-shot split>.json                             mined templates
    features/<encoder>/<dataset>/classes.json                                         a shifted set's classes

A folder of shards is a *bank*: one row per image of a split (train, val, test) in one view, keyed by the image's
position in the list of the split. Few-shot splits are positions too, so all shots and seeds share a bank.

Each shard records its provenance in its metadata; a bank whose shards disagree cannot be opened. A shard also records a
digest of its content, so `engine.features.verify` detects any later change. Nothing is unpickled. A shard is written to
a temporary name and renamed, so it is whole or absent. Its name follows from its positions, so two processes that make
the same shard leave one file.

A row carries a digest of its image file. In published datasets the position identifies an image. In custom datasets,
whose files change, the content does: `images.json` lists the images of each split as `ImageList`, and a bank opened
with such a list finds its rows by content (`engine.features.listing`).
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.digests import tensors_digest
from engine.errors import UserError
from engine.files import list_matching, opening, parse_json, write_tensors
from engine.preprocessing import OPENAI_PREPROCESSING


class MissingFeatures(UserError):
    """Requested features are missing or damaged. The caller adds the command that creates them."""


@dataclass(frozen=True)
class Provenance:
    """Record how a bank or a file of prompts was made. Features of different provenance never mix.

    `encoder` is the folder name of the encoder (`ViT-B/16` and `ViT-B-16` are the same), and `encoder_digest` the
    SHA-256 of its weights. `list_digest` identifies the list of images or prompts that positions index, and `length` is
    its length. `layer` is the number of trainable layers, or `projection`, which features have not passed yet.
    `precision` is the encoder's compute type, `decode` the decoder of the images (pil, fast), and `dtype` the type of
    stored rows. With `upright`, images were rotated by their EXIF orientation and transparent pixels drawn on white.
    `preprocessing` describes the encoder's preprocessing (`engine.preprocessing`). `depth` is the bits of images of
    more than 8.
    """

    encoder: str
    encoder_digest: str
    list_digest: str
    length: int
    precision: str = "fp32"
    layer: int | str = 0
    decode: str = "pil"
    dtype: str = "fp32"
    upright: bool = False
    preprocessing: str = OPENAI_PREPROCESSING
    depth: int = 16

    @property
    def non_default_settings(self) -> dict[str, str]:
        """Return the extraction settings that differ from the protocol, by field."""
        defaults = {"precision": "fp32", "decode": "pil", "dtype": "fp32"}
        return {name: getattr(self, name) for name in defaults if getattr(self, name) != defaults[name]}

    @property
    def settings_text(self) -> str:
        """Return the same as text, with the preprocessing if it is not OpenAI's; runs record it. Empty by default."""
        prepared = {} if self.preprocessing == OPENAI_PREPROCESSING else {"preprocessing": self.preprocessing}
        return ", ".join(f"{name} {value}" for name, value in (self.non_default_settings | prepared).items())


CONTENT_BYTES = 16
"""Bytes of a content digest in a shard."""

BY_CONTENT = "by content"
"""The `list_digest` of a bank whose rows are found by the content of their images, and whose `length` is 0."""


@dataclass(frozen=True)
class ImageList:
    """List the images of one split of a custom dataset, in order: paths, labels and content digests (32 hex digits)."""

    paths: list[str]
    labels: list[int]
    contents: list[str]

    def digest(self, positions: Iterable[int] | None = None) -> str:
        """Return the SHA-256 of the contents and labels at `positions` (default: all)."""
        positions = range(len(self.labels)) if positions is None else positions
        rows = [(self.contents[position], self.labels[position]) for position in positions]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class FeaturePaths:
    """Build the paths of the features of one dataset and encoder, in `FEATURE_DIR/<encoder>/<dataset>`."""

    folder: Path

    @classmethod
    def of(cls, feature_dir: str | Path, encoder_folder: str, dataset: str) -> FeaturePaths:
        """Return the paths for a dataset and an encoder folder, as `engine.clip.names.folder` names it."""
        return cls(Path(feature_dir) / encoder_folder / dataset)

    def bank(self, split: str, layer: int | str, view: str) -> Path:
        """Return the folder of a bank: `split` is train, val or test; `layer` is a value of `--image-layer-idx`."""
        return self.folder / f"{split}-layer_{layer}" / view

    def texts(self, layer: int, augmentation: str) -> Path:
        """Return the file of the prompts of a `--text-augmentation`; `layer` is a value of `--text-layer-idx`."""
        return self.folder / f"text-layer_{layer}" / f"{augmentation}.safetensors"

    def non_default_settings(self, image_layer: int, text_layer: int) -> dict[str, str]:
        """Return the settings of the stored features of these layers that differ from the protocol, by field."""
        found: dict[str, str] = {}
        for pattern in (f"*-layer_{image_layer}/*/*.safetensors", f"text-layer_{text_layer}/*.safetensors"):
            of_folder = {path.parent: path for path in sorted(self.folder.glob(pattern))}
            for path in of_folder.values():
                with suppress(MissingFeatures):  # skip damaged files
                    found |= read_provenance(path).non_default_settings
        return found

    @property
    def listing(self) -> Path:
        """Return the file that lists the images of a custom dataset; published datasets have none."""
        return self.folder / "images.json"

    @property
    def classes(self) -> Path:
        """Return the file of the classes of a shifted test set."""
        return self.folder / "classes.json"

    def mined(self, split: str) -> Path:
        """Return the file of the templates mined on the few-shot split of this name (`*` makes a glob pattern).

        Mined templates do not depend on layers.
        """
        return self.folder / f"template_mining-{split}.json"


DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
"""Types by their names in `--store-dtype`."""
STORED = {"fp32": "F32", "fp16": "F16"}
"""The names of the same types in safetensors."""
READ_ROWS = 256
"""Rows of a shard that are copied at a time."""


class Bank:
    """The shards of one folder, open for reading: headers are read immediately, rows on demand."""

    def __init__(self, folder: Path, image_list: ImageList | None = None):
        """Open the bank in `folder`, which may be empty or missing.

        Rows have the positions recorded in their shards; with `image_list`, the positions of their images in it.
        Raises MissingFeatures for a damaged shard, CannotOpen for an unreadable shard or folder, and UserError for
        shards of different provenance.
        """
        self.folder, self.image_list = folder, image_list
        self.provenance: Provenance | None = None
        self._shape = torch.Size()
        self._starts: dict[int, Path] = {}
        self._rows: dict[int, int] = {}  # row numbers across all shards: pairs of shard and row would take seconds
        by_content: dict[str, int] = {}
        start = 0
        for path in list_matching(folder, "*.safetensors"):
            header = read_header(path, with_contents=image_list is not None)
            self._require_same(header, path)
            self.provenance, self._shape = header.provenance, header.row_shape
            rows = range(start, start := start + len(header.positions))
            self._starts[rows.start] = path
            self._rows.update(zip(header.positions, rows, strict=True))
            if image_list is not None:
                by_content.update(zip(header.contents, rows, strict=False))
        if image_list is not None:
            contents = enumerate(image_list.contents)
            self._rows = {position: by_content[content] for position, content in contents if content in by_content}

    def _require_same(self, header: Header, path: Path) -> None:
        """Raise UserError if provenance or row shape of a shard differ from the shards before it."""
        if self.provenance not in (None, header.provenance):
            fields = differences(self.provenance, header.provenance)
            raise UserError(
                f"{self.folder} mixes features that were made differently:\n{fields}\nremove the wrong shards and run"
                " features.py again"
            )
        if self.provenance is not None and header.row_shape != self._shape:
            raise UserError(
                f"{self.folder} mixes features of two shapes, {list(self._shape)} and {list(header.row_shape)} in"
                f" {path.name}; remove the wrong shards and run features.py again"
            )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def length(self) -> int:
        """Return the length of the list that positions index. Raises MissingFeatures for an empty bank."""
        self.require([])
        return self.provenance.length if self.image_list is None else len(self.image_list.labels)

    def list_digest(self, positions: list[int] | None = None) -> str:
        """Return the digest of the list of the rows; for a custom dataset, of the images at `positions` alone."""
        return self.provenance.list_digest if self.image_list is None else self.image_list.digest(positions)

    def missing(self, positions: list[int]) -> list[int]:
        """Return the distinct `positions` that are not in the bank, ascending."""
        return sorted({position for position in positions if position not in self._rows})

    def expect(self, provenance: Provenance) -> None:
        """Raise UserError unless the bank is empty or has this `provenance`."""
        if self.provenance is not None and provenance.list_digest == BY_CONTENT != self.provenance.list_digest:
            raise UserError(
                f"{self.folder} was written before single images were tracked, so its rows cannot be matched to images."
                f" Remove {self.folder.parents[1]} and run features.py again"
            )
        if self.provenance not in (None, provenance):
            other_list = self.provenance.list_digest != provenance.list_digest
            raise UserError(
                f"{self.folder} was made differently:\n{differences(self.provenance, provenance)}\n"
                + "that is, from other images, another list of them, or with other class names;\n" * other_list
                + "remove that folder to extract it again, or use another --feature_dir"
            )

    def require(self, positions: list[int] | None = None) -> list[int]:
        """Return `positions` (None: all of the list). Raises MissingFeatures if rows are missing."""
        if self.provenance is None:
            raise MissingFeatures(f"no features in {self.folder}")
        positions = list(range(self.length)) if positions is None else positions
        if absent := self.missing(positions):
            raise MissingFeatures(f"{len(absent)} of {len(set(positions))} rows are missing in {self.folder}")
        return positions

    @property
    def row_shape(self) -> torch.Size:
        """The shape of one row. Raises MissingFeatures for an empty bank."""
        self.require([])
        return self._shape

    @property
    def row_bytes(self) -> int:
        """The bytes of one row in memory, float32."""
        return self.row_shape.numel() * torch.float32.itemsize

    def read(self, positions: list[int] | None = None, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read features [n, ...] float32 and labels [n] int64 of `positions`, in their order (None: all of the list).

        Shards are memory-mapped, and only these rows are read. Features are written to `out`, if passed. Raises
        MissingFeatures if rows are missing or cannot be read.
        """
        positions = self.require(positions)
        features = torch.empty(len(positions), *self.row_shape) if out is None else out
        labels = torch.empty(len(positions), dtype=torch.int64)
        by_shard: dict[Path, list[tuple[int, int]]] = {}
        starts = list(self._starts)
        for target, position in enumerate(positions):
            start = starts[bisect_right(starts, self._rows[position]) - 1]
            by_shard.setdefault(self._starts[start], []).append((target, self._rows[position] - start))
        for path, pairs in by_shard.items():
            targets, rows = torch.tensor(pairs).unbind(1)
            with open_feature_file(path) as shard:
                stored = shard.get_tensor("features")
                for to, at in zip(targets.split(READ_ROWS), rows.split(READ_ROWS), strict=True):
                    features[to] = stored[at].float()
                labels[targets] = shard.get_tensor("labels")[rows]
                require_labels(labels[targets])
        if self.image_list is not None:  # images may have moved to another class since
            labels = torch.tensor([self.image_list.labels[position] for position in positions])
        return features, labels


def shard_path(folder: Path, positions: list[int], contents: Sequence[str] | None = None) -> Path:
    """Return the path of the shard with exactly these positions (and contents); equal rows have equal names."""
    rows = positions if contents is None else [positions, list(contents)]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
    return folder / f"{positions[0]:08d}-{digest}.safetensors"


def write_shard(
    folder: Path,
    provenance: Provenance,
    positions: list[int],
    labels: Tensor,
    features: Tensor,
    contents: Sequence[str] | None = None,
) -> None:
    """Write a shard: `features` [n, ...] and `labels` [n] of the images at `positions`, in the dtype of `provenance`.

    `contents` are the digests of the image files, 32 hex digits each. The name follows from positions, and from
    contents if rows are found by content.
    """
    features = features.to("cpu", DTYPES[provenance.dtype]).contiguous()
    tensors = {"features": features, "labels": labels, "positions": torch.tensor(positions)}
    if contents is not None:
        tensors["contents"] = torch.tensor([list(bytes.fromhex(content)) for content in contents], dtype=torch.uint8)
    path = shard_path(folder, positions, contents if provenance.list_digest == BY_CONTENT else None)
    save(path, tensors, provenance, bank=bank_name(folder))


def bank_name(folder: Path) -> str:
    """Return the bank name that shards in this folder record: `train-layer_0/flip`."""
    return f"{folder.parent.name}/{folder.name}"


def read_provenance(path: Path) -> Provenance:
    """Read the provenance of a file of prompts or a shard. Raises MissingFeatures if it cannot be read."""
    with open_feature_file(path) as file:
        return parse_provenance(file.metadata())


def digests(metadata: dict[str, str], tensors: dict[str, Tensor]) -> tuple[str | None, str]:
    """Return the recorded digest of a feature file (None in old files) and the actual digest of its content.

    The digest covers the metadata as written, because a later version may record more in a provenance.
    """
    provenance = parse_json(metadata["source"])
    stated = provenance.pop(DIGEST, None)
    return stated, tensors_digest(tensors, json.dumps(metadata | {"source": provenance}, sort_keys=True))


DIGEST = "content"
"""The key of the digest, in the JSON of the provenance: safetensors writes metadata entries in any order, and the bytes
of a shard must follow from its rows alone."""


def save(path: Path, tensors: dict[str, Tensor], provenance: Provenance, **metadata: str) -> None:
    """Write a feature file atomically, with its provenance and digest in the metadata."""
    metadata["source"] = json.dumps(asdict(provenance))
    _, digest = digests(metadata, tensors)
    metadata["source"] = json.dumps(asdict(provenance) | {DIGEST: digest})
    write_tensors(path, tensors, metadata)


@contextmanager
def open_feature_file(path: Path) -> Iterator[safe_open]:
    """Open a feature file, memory-mapped: only the selected rows are read.

    Raises MissingFeatures if the file is damaged, CannotOpen if the system refuses access to it.
    """
    try:
        with opening(path), safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        if "KeyboardInterrupt" in str(error):  # safetensors wraps exceptions raised while it calls Python
            raise KeyboardInterrupt from error
        raise MissingFeatures(f"{path} cannot be read ({error}); remove it to extract its features again") from error


def parse_provenance(metadata: dict[str, str]) -> Provenance:
    """Parse the provenance in the metadata of a feature file."""
    provenance = parse_json(metadata["source"])
    provenance.pop(DIGEST, None)
    return Provenance(**provenance)


@dataclass(frozen=True)
class Header:
    """Everything in a shard but features and labels; `contents` is empty if not read, or in old shards."""

    provenance: Provenance
    positions: list[int]
    contents: list[str]
    row_shape: torch.Size


def contents_of(tensor: Tensor) -> list[str]:
    """Convert content digests from uint8 [n, 16] to 32 hex digits each."""
    digits = tensor.numpy().tobytes().hex()
    return [digits[at : at + 2 * CONTENT_BYTES] for at in range(0, len(digits), 2 * CONTENT_BYTES)]


def read_header(path: Path, with_contents: bool = True) -> Header:
    """Read everything in a shard but features and labels.

    Raises MissingFeatures if the file cannot be read, UserError for a shard of another bank (a moved folder).
    """
    with open_feature_file(path) as shard:
        check_layout(shard)
        metadata = shard.metadata()
        bank = metadata.get("bank")
        has_contents = with_contents and "contents" in shard.keys()  # noqa: SIM118
        header = Header(
            parse_provenance(metadata),
            shard.get_tensor("positions").tolist(),
            contents_of(shard.get_tensor("contents")) if has_contents else [],
            torch.Size(shard.get_slice("features").get_shape()[1:]),
        )
    if bank not in (None, bank_name(path.parent)):
        raise UserError(f"{path} belongs to {bank}, but is in {bank_name(path.parent)}; move it back, or remove it")
    return header


def check_layout(file: safe_open) -> list[str]:
    """Check shapes and types in the header of an open feature file; return its prompts (empty for a shard).

    Raises ValueError unless tensors have one row per prompt or image, and the dtype of the provenance.
    """
    tensors = {name: file.get_slice(name) for name in sorted(file.keys())}
    shapes = {name: tensor.get_shape() for name, tensor in tensors.items()}
    features, labels = shapes["features"], shapes["labels"]
    if "prompts" in file.metadata():
        prompts = read_list(file.metadata(), "prompts")
        if not (len(features) > 1 and features[0] == len(prompts) > 0 and labels == [len(prompts)]):
            raise ValueError(
                f"it holds {sum(features[:1])} features and {sum(labels)} labels of {len(prompts)} prompts"
            )
    else:
        prompts = []
        if not (len(features) > 1 and shapes["positions"] == labels == features[:1] != [0]):
            held = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"it does not hold a row per image: {held}")
        if shapes.get("contents", [labels[0], CONTENT_BYTES]) != [labels[0], CONTENT_BYTES]:
            raise ValueError("it does not hold a content digest per image")
    types = {"features": STORED[parse_provenance(file.metadata()).dtype], "labels": "I64", "positions": "I64"}
    types["contents"] = "U8"
    for name in types.keys() & tensors.keys():
        if tensors[name].get_dtype() != types[name]:
            raise ValueError(f"its {name} are {tensors[name].get_dtype()}, not {types[name]}")
    return prompts


def read_list(metadata: dict[str, str], name: str) -> list[str]:
    """Return a list of texts in the metadata of a file. Raises ValueError if it is not a list of texts."""
    texts = parse_json(metadata[name])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"its {name} are not a list of texts")
    return texts


def require_labels(labels: Tensor) -> None:
    """Raise ValueError for negative labels."""
    if labels.numel() and int(labels.min()) < 0:
        raise ValueError("it has labels below 0")


def differences(found: Provenance, wanted: Provenance) -> str:
    """Return the fields in which two provenances differ, one line each."""
    pairs = zip(asdict(found).items(), asdict(wanted).values(), strict=True)
    return "\n".join(f"  {name}: {mine} there, {other} here" for (name, mine), other in pairs if mine != other)
