"""Extract features of images: plan the missing rows of the banks, decode and encode images, write shards.

An image is decoded once per view, and one pass of the encoder serves the banks of all numbers of trainable layers.
Worker processes decode, this process encodes and a thread writes, all at the same time.

Kernels round differently for other shapes: float32 features vary by up to 1e-6, relative, with the batch size, the
number of threads and the machine. They do not depend on the other images of a batch, because batches are padded: on the
CPU where this was measured, they were bit-equal for all requests (demo-RN, demo-ViT, RN50, ViT-B/32). Batches of
prompts are cut to the longest prompt, so features vary as much with the other prompts of their file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from engine.clip import names
from engine.clip.load import Encoder
from engine.datasets import ImageDataset
from engine.datasets.checks import list_preview
from engine.datasets.custom.tracking import file_states
from engine.datasets.image_dataset import BACKGROUND, content_digest
from engine.errors import UserError
from engine.features.decoding import Batch, batches, report_dead_workers
from engine.features.listing import Listing
from engine.features.numbers import check_finite
from engine.features.store import BY_CONTENT, DTYPES, Bank, FeaturePaths, Provenance, shard_path, write_shard
from engine.preprocessing import DEPTH, Preprocessing
from engine.transforms import decode_file, normalise, render

PADDED = 32
"""Size that small batches are padded to, however few images are requested: the default of `--test-batch-size`."""
SHARD_IMAGES = 1024
"""Approximate maximum of images in a shard: a killed run loses at most these."""
SHARD_BYTES = 1 << 27
"""Approximate maximum size of a shard. Twice as much is in memory for each bank, and readers map whole shards."""


@dataclass(frozen=True)
class Target:
    """A bank to extend: its folder, the provenance of its rows and the missing positions."""

    folder: Path
    provenance: Provenance
    missing: frozenset[int]


@dataclass(frozen=True)
class Plan:
    """The requested images of one split in one view, and their banks by number of trainable layers.

    `total` also counts images that other processes extract.
    """

    benchmark: ImageDataset
    split: str
    view: str
    requested: frozenset[int]
    banks: dict[int | str, Target]
    total: int

    def seed(self, position: int) -> str:
        """Return the seed of an image's random view. In a custom dataset it follows the content: positions change."""
        state = self.benchmark.files.get(self.benchmark.items(self.split)[position].impath)
        image = state.content if state else f"{self.split}/{position}"
        return f"{self.benchmark.name}/{image}/{self.view}"

    @cached_property
    def positions(self) -> list[int]:
        """Positions that are missing in any of the banks."""
        return sorted(frozenset().union(*(bank.missing for bank in self.banks.values())))

    def path(self, position: int) -> Path:
        """Return the path of an image file."""
        return self.benchmark.path(self.benchmark.items(self.split)[position])


class CorruptImages(UserError):
    """Image files that cannot be read or decoded: `lines` describes each file, and the message lists all.

    `uniform` are the other files whose images have a single colour.
    """

    def __init__(self, lines: list[str], uniform: Sequence[str] = ()):
        self.uniform = list(uniform)
        self.lines = list(dict.fromkeys(lines))  # several views of an image have the same fault
        super().__init__(
            f"image files that cannot be read or decoded: {len(self.lines)}."
            " Replace them by sound files (fetch them again), then run the same command again:\n"
            + "\n".join(f"  {line}" for line in self.lines)
        )


def plan(
    benchmark: ImageDataset,
    split: str,
    view: str,
    positions: list[int],
    paths: FeaturePaths,
    encoder: Encoder,
    decode: str = "pil",
    store_dtype: str = "fp32",
    listing: Listing | None = None,
    part: frozenset[int] | None = None,
) -> Plan:
    """Plan the extraction of `positions`: find the missing rows for each number of trainable layers of `encoder`.

    `decode` and `store_dtype` are values of `--decode` and `--store-dtype`; final features are always stored in
    float32. `listing` lists the images of a custom dataset, whose rows are found by content. `part` are the positions
    that this process extracts; None is all. Raises UserError if a stored bank has other provenance: other weights,
    settings or list of images.
    """
    requested = frozenset(positions) if part is None else part
    banks = {}
    for layers in encoder.image:
        provenance = Provenance(
            names.folder(encoder.name),
            encoder.digest,
            benchmark.digest(split) if listing is None else BY_CONTENT,
            len(benchmark.items(split)) if listing is None else 0,
            precision=encoder.precision,
            layer=layers,
            decode=decode,
            dtype=stored_dtype(layers, store_dtype),
            upright=benchmark.upright,
            preprocessing=encoder.preprocessing.description,
            depth=benchmark.depth or DEPTH,
        )
        bank = Bank(paths.bank(split, layers, view), listing and listing.split(split))
        bank.expect(provenance)
        banks[layers] = Target(bank.folder, provenance, frozenset(bank.missing(requested)))
    return Plan(benchmark, split, view, requested, banks, len(frozenset(positions)))


def stored_dtype(layers: int | str, store_dtype: str) -> str:
    """Return the type of a bank's rows: `store_dtype` for inputs of trainable layers, fp32 for final features."""
    return store_dtype if layers else "fp32"


def row_bytes(encoder: Encoder, layers: int | str, dtype: str) -> int:
    """Return the bytes of one row on disk, with label and position."""
    return encoder.image_shapes[layers].numel() * DTYPES[dtype].itemsize + 2 * torch.int64.itemsize


@report_dead_workers("Complete shards are kept. Run the same command again, with fewer --num-workers if necessary")
def extract(
    plans: list[Plan], encoder: Encoder, *, batch_size: int, workers: int, progress: Callable[[int], object]
) -> list[str]:
    """Encode the missing images of `plans` and append them to their banks; call `progress` with the size of each batch.

    Return the distinct files whose images have a single colour.

    Shards are made in ascending order, and all batches of a plan are padded to the same size (`padded_size`). So a
    resumed run passes the same batches through the network, and makes bit-equal features.
    Raises CorruptImages after trying all files; only shards with corrupt images are skipped. Raises UserError if a
    shard cannot be written, features are not finite, or a worker was killed.
    """
    chunks = [chunk for plan in plans for chunk in _chunks(plan, encoder, padded_size(plan.total, batch_size))]
    if not chunks:
        return []
    rows = [(chunk.plan, position) for chunk in chunks for position in chunk.positions]
    decoding = batches(
        _Images(rows, encoder.preprocessing),
        batch_sampler=(sampler := _batches(chunks)),
        workers=min(workers, len(sampler)),
        pin_memory=torch.device(encoder.device).type == "cuda",
    )
    corrupt: list[str] = []
    uniform: list[str] = []
    writing: Future | None = None
    with ThreadPoolExecutor(1) as writer:  # an interrupted run still finishes the shard
        for chunk in chunks:
            encoded: list[dict[int | str, Tensor]] = []
            faults: list[str] = []
            for at in range(0, len(chunk.positions), chunk.batch_size):
                batch = next(decoding)
                uniform += chunk.uniform(at, batch)
                faults += [fault for fault in batch.faults if fault]
                if not faults:
                    encoded.append(_encode(batch.pixels, encoder, chunk.batch_size, chunk.layers))
                progress(len(batch.faults))
            corrupt += faults
            if writing:
                writing.result()
            writing = None if faults else writer.submit(chunk.write, encoded)
        if writing:
            writing.result()
    next(decoding, None)  # workers exit after the last batch; leaving them to the garbage collector is slow
    uniform = list(dict.fromkeys(uniform))  # once, not once per view
    if corrupt:
        raise CorruptImages(corrupt, uniform)
    return uniform


@dataclass(frozen=True)
class _Chunk:
    """Images whose features are in memory together, and become one shard of each bank that lacks some of them.

    `batch_size` images are encoded at a time.
    """

    plan: Plan
    positions: list[int]
    batch_size: int

    @property
    def layers(self) -> list[int]:
        """The numbers of trainable layers whose banks lack some of the images."""
        return [layers for layers, bank in self.plan.banks.items() if not bank.missing.isdisjoint(self.positions)]

    def rows(self, layers: int | str) -> list[int]:
        """Return the indices into `positions` of the images that a bank lacks."""
        missing = self.plan.banks[layers].missing
        return [row for row, position in enumerate(self.positions) if position in missing]

    def is_written(self) -> bool:
        """Return whether another process has written all shards since planning."""
        wanted = ((self.plan.banks[k].folder, [self.positions[row] for row in self.rows(k)]) for k in self.layers)
        return all(shard_path(*shard, self._listed_contents(shard[1])).exists() for shard in wanted)

    def _listed_contents(self, positions: list[int]) -> list[str] | None:
        """Return the content digests of images of a custom dataset; None for a published dataset."""
        contents = self.plan.benchmark.contents(self.plan.split)
        return contents and [contents[position] for position in positions]

    def _require_unchanged(self, impaths: list[str]) -> None:
        """Raise UserError if images of a custom dataset changed since they were listed."""
        files = self.plan.benchmark.files
        now = file_states(self.plan.benchmark.image_dir, impaths, files)
        if changed := [impath for impath in impaths if now[impath].content != files[impath].content]:
            raise UserError(
                f"{self.plan.benchmark.image_dir}: images changed while their features were extracted:"
                f" {list_preview(changed)}. Run the same command again"
            )

    def uniform(self, start: int, batch: Batch) -> list[str]:
        """Return the files whose images have a single colour, in the batch that starts at index `start`."""
        valid = [start + row for row, fault in enumerate(batch.faults) if fault is None]
        rows = [row for row, is_uniform in zip(valid, batch.uniform, strict=True) if is_uniform]
        return [str(self.plan.path(self.positions[row])) for row in rows]

    def write(self, encoded: list[dict[int | str, Tensor]]) -> None:
        """Write the shards; `encoded` has features [b, ...] of each batch, by number of trainable layers."""
        benchmark = self.plan.benchmark
        items = benchmark.items(self.plan.split)
        contents = self._listed_contents(self.positions)
        if contents:
            self._require_unchanged([items[position].impath for position in self.positions])
        contents = contents or [content_digest(benchmark.path(items[position])) for position in self.positions]
        for layers in self.layers:
            bank, rows = self.plan.banks[layers], self.rows(layers)
            positions = [self.positions[row] for row in rows]
            features = torch.cat([batch.pop(layers).to("cpu", DTYPES[bank.provenance.dtype]) for batch in encoded])
            if len(rows) < len(features):
                features = features[rows]
            name = f"{self.plan.benchmark.name}, {self.plan.split} images, in {bank.provenance.precision} of"
            check_finite(features, positions, f"{name} {bank.provenance.encoder}, stored as {bank.provenance.dtype}")
            write_shard(
                bank.folder,
                bank.provenance,
                positions,
                torch.tensor([items[position].label for position in positions]),
                features,
                [contents[row] for row in rows],
            )


def padded_size(images: int, batch_size: int) -> int:
    """Return the size that batches of a split in a view are padded to: `batch_size`, or less for fewer `images`.

    It depends on the requested images, not on the missing ones, so a resumed run has the same. Up to `PADDED`, it
    depends on `batch_size` alone.
    """
    return min(batch_size, max(PADDED, images))


def images_per_file(largest_row: int, batch_size: int) -> int:
    """Return the number of images in a shard, a multiple of the batch size, for the bytes of the largest row."""
    return max(1, min(SHARD_IMAGES, SHARD_BYTES // largest_row) // batch_size) * batch_size


def _chunks(plan: Plan, encoder: Encoder, batch_size: int) -> list[_Chunk]:
    """Divide the images of a plan into chunks, whose size the largest features limit; skip written ones."""
    if not plan.positions:
        return []
    banks = {layers: bank.provenance.dtype for layers, bank in plan.banks.items() if bank.missing}
    count = images_per_file(max(row_bytes(encoder, *bank) for bank in banks.items()), batch_size)
    chunks = [_Chunk(plan, plan.positions[at : at + count], batch_size) for at in range(0, len(plan.positions), count)]
    return [chunk for chunk in chunks if not chunk.is_written()]


class _Images(Dataset):
    """Rendered images by index, uint8 [3, size, size]; an error message for a file that cannot be decoded."""

    def __init__(self, images: list[tuple[Plan, int]], preprocessing: Preprocessing):
        self.images, self.preprocessing = images, preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | str:
        plan, position = self.images[index]
        path = plan.path(position)
        provenance = next(iter(plan.banks.values())).provenance
        try:
            background = BACKGROUND if provenance.upright else ""
            image = decode_file(path, provenance.decode, provenance.upright, provenance.depth, background)
            return render(image, plan.view, self.preprocessing, plan.seed(position))
        except Exception as error:  # PIL's decoders raise OSError, SyntaxError, ValueError and more on bad bytes
            return f"{path}: {error}"


def _batches(chunks: list[_Chunk]) -> list[list[int]]:
    """Return the indices of each batch; no batch spans two chunks."""
    batches, start = [], 0
    for chunk in chunks:
        indices, size = range(start, start + len(chunk.positions)), chunk.batch_size
        batches += [list(indices[at : at + size]) for at in range(0, len(indices), size)]
        start += len(indices)
    return batches


def _encode(pixels: Tensor, encoder: Encoder, batch_size: int, layers: list[int]) -> dict[int, Tensor]:
    """Encode rendered images, uint8 [b, 3, size, size]; return the rows to store by number of trainable layers.

    The batch is padded to `batch_size`, because kernels may round differently for other sizes.
    """
    on_device = pixels.to(encoder.device, non_blocking=True)  # before padding: a copy of pinned memory is not pinned
    padded = torch.cat([on_device, on_device[-1:].expand(batch_size - len(pixels), -1, -1, -1)])
    encoded = encoder.encode_images(normalise(padded, encoder.preprocessing), layers)
    return {k: features[: len(pixels)] for k, (features,) in encoded.items()}
