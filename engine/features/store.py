"""The feature store: raw CLIP features on disk, in append-only shards that are never changed once written.

    features/<encoder>/<dataset>/<part>-layer_<i>/<view>/<digest of its positions>.safetensors     images
    features/<encoder>/<dataset>/text-layer_<i>/<text augmentation>.safetensors                    prompts
    features/<encoder>/<dataset>/template_mining-<split>.json                                      mined templates
    features/<encoder>/<dataset>/classes.json                                         a shifted set's classes

A folder of shards is a *bank*: one row per image of a dataset's part (train, val, test) in one view, keyed by the
image's position in the part's list. Few-shot splits are positions too, so all shots and seeds share a bank.

Every shard says in its metadata what it was made from, and a bank whose shards disagree cannot be opened. It states a
digest of its content too, by which `engine.features.verify` finds what is no longer as it was written. Nothing is
unpickled. A shard is written to a temporary name and renamed, so it is whole or absent, and its name follows from its
positions, so two processes that make the same shard leave one file.

A row carries a digest of the content of its image file. In datasets of published lists the position identifies an
image. In custom datasets, whose files come and go, its content does: the folder's `images.json` lists the images of
each part as `ImageList`, and a bank opened with such a list finds their rows by content (`engine.features.listing`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.digests import tensors_digest
from engine.errors import UserError
from engine.files import matching, opening, parse_json, write_tensors
from engine.preprocessing import OPENAI_PREPROCESSING


class MissingFeatures(UserError):
    """Features that were asked for are not in the store, or damaged. Who knows the command that makes them adds it."""


@dataclass(frozen=True)
class Provenance:
    """What the rows of a bank, or a file of prompts, were made from. Features of different sources never mix.

    `encoder` is the encoder's name as a folder (`ViT-B/16` and `ViT-B-16` are one encoder) and `encoder_digest` the
    SHA-256 of its weights; `list_digest` binds rows to the list of images (or prompts) that positions count in, and
    `length` is the length of that list. `layer` is how many of the last layers of the encoder are yet to come.
    `precision` is what the encoder computed in, `decode` what decoded and resized images (pil, fast), `dtype` what
    rows are stored in; `upright` are images that were turned as their EXIF data say, and whose transparent pixels were
    shown on white. `preprocessing` describes how the encoder wants its images (`engine.preprocessing`). `depth` is the
    number of bits of images of more than 8.
    """

    encoder: str
    encoder_digest: str
    list_digest: str
    length: int
    precision: str = "fp32"
    layer: int = 0
    decode: str = "pil"
    dtype: str = "fp32"
    upright: bool = False
    preprocessing: str = OPENAI_PREPROCESSING
    depth: int = 16

    @property
    def non_default_settings(self) -> dict[str, str]:
        """How features.py was told to make the features where that is not the protocol's way, by field."""
        usual = {"precision": "fp32", "decode": "pil", "dtype": "fp32"}
        return {name: getattr(self, name) for name in usual if getattr(self, name) != usual[name]}

    @property
    def settings_text(self) -> str:
        """The same in words, and the encoder's preparation of images where it is not OpenAI's; else empty."""
        prepared = {} if self.preprocessing == OPENAI_PREPROCESSING else {"preprocessing": self.preprocessing}
        return ", ".join(f"{name} {value}" for name, value in (self.non_default_settings | prepared).items())


CONTENT_BYTES = 16
"""The bytes of a content digest in a shard."""

BY_CONTENT = "by content"
"""The `list_digest` of a bank whose rows are found by the content of their images; its `length` is 0."""


@dataclass(frozen=True)
class ImageList:
    """The images of one part of a custom dataset, in order: path, label and content digest (32 hex digits) of each."""

    paths: list[str]
    labels: list[int]
    contents: list[str]

    def digest(self, positions: Iterable[int] | None = None) -> str:
        """Return the SHA-256 of the contents and labels at `positions`, by default of all."""
        positions = range(len(self.labels)) if positions is None else positions
        rows = [(self.contents[position], self.labels[position]) for position in positions]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class FeaturePaths:
    """Where the features of one dataset under one encoder lie: `FEATURE_DIR/<encoder>/<dataset>`."""

    folder: Path

    @classmethod
    def of(cls, feature_dir: str | Path, encoder_folder: str, dataset: str) -> FeaturePaths:
        """The place of a dataset under an encoder, whose folder `engine.clip.names.folder` names."""
        return cls(Path(feature_dir) / encoder_folder / dataset)

    def bank(self, split: str, layer: int, view: str) -> Path:
        """The folder of a bank: `part` is train, val or test; `layer` what `--image-layer-idx` says."""
        return self.folder / f"{split}-layer_{layer}" / view

    def texts(self, layer: int, augmentation: str) -> Path:
        """The file of the prompts of a `--text-augmentation`."""
        return self.folder / f"text-layer_{layer}" / f"{augmentation}.safetensors"

    def non_default_settings(self, image_layer: int, text_layer: int) -> dict[str, str]:
        """How what is here of these layers was made where that is not the protocol's way, by field of its sources."""
        found: dict[str, str] = {}
        for pattern in (f"*-layer_{image_layer}/*/*.safetensors", f"text-layer_{text_layer}/*.safetensors"):
            of_folder = {path.parent: path for path in sorted(self.folder.glob(pattern))}
            for path in of_folder.values():
                with suppress(MissingFeatures):  # a damaged file says nothing
                    found |= read_provenance(path).non_default_settings
        return found

    @property
    def listing(self) -> Path:
        """The file that lists the images of a custom dataset; published datasets have none."""
        return self.folder / "images.json"

    @property
    def classes(self) -> Path:
        """The file that says which classes of its parent a shifted test set has."""
        return self.folder / "classes.json"

    def mined(self, split: str) -> Path:
        """The file that says which templates were mined on the split of this name; they are the same for all layers.

        `*` stands for any split, in a pattern of file names.
        """
        return self.folder / f"template_mining-{split}.json"


DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
"""What `--store-dtype` names."""
STORED = {"fp32": "F32", "fp16": "F16"}
"""The same as safetensors calls them."""


READ_ROWS = 256
"""How many rows of a shard are copied at a time."""


class Bank:
    """The shards of one folder, opened for reading: their headers are read at once, rows only when asked for."""

    def __init__(self, folder: Path, listed: ImageList | None = None):
        """Open the bank in `folder`, which may be empty or not exist.

        Rows have the positions that their shards state; with `listed`, the positions that their images have there.
        Raises MissingFeatures for a shard that is damaged, CannotOpen for one, or a folder, that may not be read, and
        UserError for two shards of different sources.
        """
        self.folder, self.image_list = folder, listed
        self.provenance: Provenance | None = None
        self._shape = torch.Size()
        self._rows: dict[int, tuple[Path, int]] = {}
        by_content: dict[str, tuple[Path, int]] = {}
        for path in matching(folder, "*.safetensors"):
            header = read_header(path)
            self._require_same(header, path)
            self.provenance, self._shape = header.provenance, header.row_shape
            self._rows.update({position: (path, row) for row, position in enumerate(header.positions)})
            by_content.update({content: (path, row) for row, content in enumerate(header.contents)})
        if listed is not None:
            contents = enumerate(listed.contents)
            self._rows = {position: by_content[content] for position, content in contents if content in by_content}

    def _require_same(self, header: Header, path: Path) -> None:
        """Raise UserError for a shard of another provenance, or of rows of another shape, than those before it."""
        if self.provenance not in (None, header.provenance):
            raise UserError(
                f"{self.folder} mixes features of two sources:\n{differences(self.provenance, header.provenance)}"
            )
        if self.provenance is not None and header.row_shape != self._shape:
            raise UserError(
                f"{self.folder} mixes features of two shapes, {list(self._shape)} and {list(header.row_shape)} in"
                f" {path.name}; remove the shards that are wrong, and make them anew"
            )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def length(self) -> int:
        """The length of the list that positions count in. Raises MissingFeatures for a bank without rows."""
        self.require([])
        return self.provenance.length if self.image_list is None else len(self.image_list.labels)

    def list_digest(self, positions: list[int] | None = None) -> str:
        """Return the digest that binds rows to their list; for a custom dataset to the images at `positions` alone."""
        return self.provenance.list_digest if self.image_list is None else self.image_list.digest(positions)

    def missing(self, positions: list[int]) -> list[int]:
        """Those of `positions` that are not in the bank, ascending, each once."""
        return sorted({position for position in positions if position not in self._rows})

    def expect(self, provenance: Provenance) -> None:
        """Raise UserError unless the bank is empty or made from `provenance`."""
        if self.provenance is not None and provenance.list_digest == BY_CONTENT != self.provenance.list_digest:
            raise UserError(
                f"{self.folder} is from before single images were tracked, so its rows cannot be told apart."
                f" Remove {self.folder.parents[1]}; features.py makes the features anew"
            )
        if self.provenance not in (None, provenance):
            other_list = self.provenance.list_digest != provenance.list_digest
            raise UserError(
                f"{self.folder} was made from something else:\n{differences(self.provenance, provenance)}\n"
                + "that is, from other images, another list of them, or with other class names;\n" * other_list
                + "remove that folder to make it anew, or give another --feature_dir"
            )

    def require(self, positions: list[int] | None = None) -> list[int]:
        """`positions`, or for None those of the whole list. Raises MissingFeatures when rows are not there."""
        if self.provenance is None:
            raise MissingFeatures(f"no features in {self.folder}")
        positions = list(range(self.length)) if positions is None else positions
        if absent := self.missing(positions):
            raise MissingFeatures(f"{len(absent)} of {len(set(positions))} rows are missing in {self.folder}")
        return positions

    @property
    def row_shape(self) -> torch.Size:
        """The shape of an image's features. Raises MissingFeatures when there are none."""
        self.require([])
        return self._shape

    @property
    def row_bytes(self) -> int:
        """Bytes of an image's features as they are read."""
        return self.row_shape.numel() * torch.float32.itemsize

    def read(self, positions: list[int] | None = None, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features [n, ...] float32 and labels [n] int64 of `positions`, in their order; None: of the whole list.

        Shards are mapped, and no more is read of them than these rows. Features go to `out` if it is given. Raises
        MissingFeatures when rows are not there or cannot be read.
        """
        positions = self.require(positions)
        features = torch.empty(len(positions), *self.row_shape) if out is None else out
        labels = torch.empty(len(positions), dtype=torch.int64)
        by_shard: dict[Path, list[tuple[int, int]]] = {}
        for target, position in enumerate(positions):
            path, row = self._rows[position]
            by_shard.setdefault(path, []).append((target, row))
        for path, pairs in by_shard.items():
            targets, rows = torch.tensor(pairs).unbind(1)
            with open_feature_file(path) as shard:
                stored = shard.get_tensor("features")
                for some, own in zip(targets.split(READ_ROWS), rows.split(READ_ROWS), strict=True):
                    features[some] = stored[own].float()
                labels[targets] = shard.get_tensor("labels")[rows]
                require_labels(labels[targets])
        if self.image_list is not None:  # an image may have moved to another class
            labels = torch.tensor([self.image_list.labels[position] for position in positions])
        return features, labels


def shard_path(folder: Path, positions: list[int], contents: Sequence[str] | None = None) -> Path:
    """Return the path of the shard with exactly these positions (and contents): the same rows have the same name."""
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
    """Append a shard: `features` [n, ...] and `labels` [n] of the images at `positions`, stored as `provenance` says.

    `contents` are the digests of the image files, 32 hex digits each. A shard of rows that are found by content is
    named after these, any other after its positions.
    """
    features = features.to("cpu", DTYPES[provenance.dtype]).contiguous()
    tensors = {"features": features, "labels": labels, "positions": torch.tensor(positions)}
    if contents is not None:
        tensors["contents"] = torch.tensor([list(bytes.fromhex(content)) for content in contents], dtype=torch.uint8)
    path = shard_path(folder, positions, contents if provenance.list_digest == BY_CONTENT else None)
    save(path, tensors, provenance, bank=bank_name(folder))


def bank_name(folder: Path) -> str:
    """Return what the shards in the folder of a bank state as their bank: `train-layer_0/flip`."""
    return f"{folder.parent.name}/{folder.name}"


def read_provenance(path: Path) -> Provenance:
    """What a file of prompts or a shard was made from. Raises MissingFeatures when it cannot be read."""
    with open_feature_file(path) as file:
        return parse_provenance(file.metadata())


def digests(metadata: dict[str, str], tensors: dict[str, Tensor]) -> tuple[str | None, str]:
    """The digest that a file of the store states, None in one from before there were any, and that of its content.

    It covers the metadata too, as they stand in the file: a later version may know more about sources.
    """
    provenance = parse_json(metadata["source"])
    stated = provenance.pop(DIGEST, None)
    return stated, tensors_digest(tensors, json.dumps(metadata | {"source": provenance}, sort_keys=True))


DIGEST = "content"
"""The key of the digest, in the JSON of the provenance: safetensors writes metadata entries in any order, and the bytes
of a shard must follow from its rows alone."""


def save(path: Path, tensors: dict[str, Tensor], provenance: Provenance, **metadata: str) -> None:
    """Write a file of the store, atomically, with what it was made from and its digest among the metadata."""
    metadata["source"] = json.dumps(asdict(provenance))
    _, digest = digests(metadata, tensors)
    metadata["source"] = json.dumps(asdict(provenance) | {DIGEST: digest})
    write_tensors(path, tensors, metadata)


@contextmanager
def open_feature_file(path: Path) -> Iterator[safe_open]:
    """A file of the store, mapped: only what is picked of it is read.

    Raises MissingFeatures where it is damaged, CannotOpen where it is only that the system does not let it be read.
    """
    try:
        with opening(path), safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        if "KeyboardInterrupt" in str(error):  # safetensors wraps whatever comes while it calls Python
            raise KeyboardInterrupt from error
        raise MissingFeatures(
            f"{path} cannot be read ({error}); remove it, as its features must be made again"
        ) from error


def parse_provenance(metadata: dict[str, str]) -> Provenance:
    """What the metadata of a file of the store say it was made from."""
    provenance = parse_json(metadata["source"])
    provenance.pop(DIGEST, None)
    return Provenance(**provenance)


@dataclass(frozen=True)
class Header:
    """What a shard states of its rows; `contents` is empty in one from before image files were tracked."""

    provenance: Provenance
    positions: list[int]
    contents: list[str]
    row_shape: torch.Size


def contents_of(tensor: Tensor) -> list[str]:
    """Return content digests, 32 hex digits each, of uint8 [n, 16]."""
    return [bytes(row).hex() for row in tensor.tolist()]


def read_header(path: Path) -> Header:
    """Read all of a shard but features and labels.

    Raises MissingFeatures for a file that cannot be read, UserError for a shard of another bank (a moved folder).
    """
    with open_feature_file(path) as shard:
        check_layout(shard)
        metadata = shard.metadata()
        bank = metadata.get("bank")
        contents = shard.get_tensor("contents") if "contents" in shard.keys() else ()  # noqa: SIM118
        header = Header(
            parse_provenance(metadata),
            shard.get_tensor("positions").tolist(),
            contents_of(contents) if len(contents) else [],
            torch.Size(shard.get_slice("features").get_shape()[1:]),
        )
    if bank not in (None, bank_name(path.parent)):
        raise UserError(f"{path} belongs to {bank}, and lies in {bank_name(path.parent)}; move it back, or remove it")
    return header


def check_layout(file: safe_open) -> list[str]:
    """Return the prompts of an open file of the store, none of a shard; only its header is read.

    Raises ValueError unless its tensors have a row for each prompt, or for each of some images, and the types that its
    provenance says.
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
    """Return the texts that the metadata of a file list. Raises ValueError for what is not a list of texts."""
    texts = parse_json(metadata[name])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"its {name} are not a list of texts")
    return texts


def require_labels(labels: Tensor) -> None:
    if labels.numel() and int(labels.min()) < 0:
        raise ValueError("it has labels below 0")


def differences(found: Provenance, wanted: Provenance) -> str:
    """In what two sources differ, a line for each."""
    pairs = zip(asdict(found).items(), asdict(wanted).values(), strict=True)
    return "\n".join(f"  {name}: {mine} there, {other} here" for (name, mine), other in pairs if mine != other)
