"""The store: features are read as written, provenances are kept apart, and processes may write concurrently."""

import hashlib
import json
import multiprocessing
import resource
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from engine.errors import UserError
from engine.features.numbers import check_finite
from engine.features.prompts import Texts, read_texts, read_texts_classnames, write_texts
from engine.features.store import (
    DIGEST,
    Bank,
    FeaturePaths,
    MissingFeatures,
    Provenance,
    digests,
    shard_path,
    write_shard,
)
from engine.features.verify import check, stored_files

SOURCE = Provenance("RN50", "a" * 64, "b" * 64, 10)


def rows(positions, offset=0.0):
    """Return labels and features of images that encode their positions."""
    at = torch.tensor(positions)
    return at % 3, at[:, None].float() + torch.tensor([offset, 0.25, 0.5])


def write(folder, positions, provenance=SOURCE, offset=0.0):
    write_shard(folder, provenance, positions, *rows(positions, offset))
    return shard_path(folder, positions)


def test_rows_are_read_in_the_requested_order(tmp_path):
    write(tmp_path, [0, 3, 4])
    write(tmp_path, [9, 1])
    bank = Bank(tmp_path)
    assert (len(bank), bank.provenance) == (5, SOURCE)
    for positions in ([0, 1, 3, 4, 9], [9, 0, 4, 1], [3, 3, 9, 3], [1]):
        features, labels = bank.read(positions)
        expected = rows(positions)
        assert (features.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert torch.equal(labels, expected[0])
        assert torch.equal(features, expected[1])


class Largest(TorchDispatchMode):
    """Record the bytes of the largest tensor that torch creates."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return made


def test_values_are_checked_without_a_full_copy():
    """Memory-mapped features are checked too, and may not fit in memory twice."""
    features = torch.zeros(1, 256).expand(4096, 2, 256)  # takes no memory itself
    with Largest() as largest:
        check_finite(features, range(4096), "features")
    assert 0 < largest.bytes < features.numel() * 4 // 50
    features = torch.zeros(130, 2)
    features[[0, 63, 64, 129], [0, 1, 1, 0]] = torch.tensor([torch.inf, torch.nan, -torch.inf, torch.nan])
    with pytest.raises(UserError, match="rows: features that are not finite numbers, at positions 0, 126, 128, "):
        check_finite(features, range(0, 260, 2), "rows")


def forget(path, *fields):
    """Rewrite a feature file without some fields of its provenance, as in older versions."""
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata()  # noqa: SIM118
    provenance = json.loads(metadata["source"])
    metadata["source"] = json.dumps({name: provenance[name] for name in provenance if name not in (*fields, DIGEST)})
    _, digest = digests(metadata, tensors)
    metadata["source"] = json.dumps(json.loads(metadata["source"]) | {DIGEST: digest})
    save_file(tensors, path, metadata=metadata)


def test_stores_of_earlier_versions_can_be_extended(tmp_path):
    """Provenances had no fields for the decoder and the stored type, because there was only one."""
    place = FeaturePaths(tmp_path)
    bank, path = place.bank("train", 0, "none"), place.texts(0, "vanilla")
    write_texts(path, Texts(torch.ones(2, 3), torch.tensor([0, 1]), ["a dog", "a cat"], SOURCE))
    for old in (write(bank, [0, 3, 4]), path):
        forget(old, "decode", "dtype")
        assert "decode" not in old.read_bytes().decode(errors="ignore")
    Bank(bank).expect(SOURCE)
    write(bank, [1, 9])
    assert Bank(bank).provenance == read_texts(path).provenance == SOURCE
    assert torch.equal(Bank(bank).read([9, 0])[0], rows([9, 0])[1])
    assert [file.fault for file in check(stored_files([place]))] == [None] * 3


def test_the_whole_list_is_read_in_its_order(tmp_path):
    for positions in ([5, 6, 7, 8, 9], [0, 4, 2], [1, 3]):
        write(tmp_path, positions)
    features, labels = Bank(tmp_path).read()
    assert torch.equal(features, rows(range(10))[1])
    assert torch.equal(labels, rows(range(10))[0])


def test_features_may_have_any_shape(tmp_path):
    features = torch.randn(2, 5, 4)
    write_shard(tmp_path, SOURCE, [7, 2], torch.tensor([1, 0]), features.transpose(1, 2))
    assert torch.equal(Bank(tmp_path).read([2, 7])[0], features.transpose(1, 2).flip(0))


def test_rows_that_two_shards_hold_count_once(tmp_path):
    write(tmp_path, [0, 1, 2])
    write(tmp_path, [2, 3])
    write(tmp_path, [0, 1, 2])
    bank = Bank(tmp_path)
    assert len(bank) == 4
    assert torch.equal(bank.read([3, 2, 1, 0])[0], rows([3, 2, 1, 0])[1])
    assert len(list(tmp_path.iterdir())) == 2


def test_missing_rows(tmp_path):
    bank = Bank(tmp_path / "nowhere")
    assert (len(bank), bank.missing([3, 1, 3])) == (0, [1, 3])
    for positions in (None, [0]):
        with pytest.raises(MissingFeatures, match=r"no features in .*nowhere"):
            bank.read(positions)
    write(tmp_path, [0, 3, 4])
    bank = Bank(tmp_path)
    assert bank.missing([4, 9, 0, 2, 9]) == [2, 9]
    with pytest.raises(MissingFeatures, match="2 of 3 rows are missing"):
        bank.read([0, 2, 9])
    with pytest.raises(MissingFeatures, match="7 of 10 rows are missing"):
        bank.read()


@pytest.mark.parametrize("field", ["encoder", "encoder_digest", "list_digest", "length", "precision"])
def test_two_provenances_in_one_bank_are_an_error(tmp_path, field):
    other = replace(SOURCE, **{field: 99 if field == "length" else "something else"})
    write(tmp_path, [0, 1])
    Bank(tmp_path).expect(SOURCE)
    with pytest.raises(UserError) as caught:
        Bank(tmp_path).expect(other)
    write(tmp_path, [2, 3], other)
    with pytest.raises(UserError, match="mixes") as mixed:
        Bank(tmp_path)
    for message in (str(caught.value), str(mixed.value)):
        assert str(tmp_path) in message
        assert field in message
        assert str(getattr(SOURCE, field)) in message
        assert str(getattr(other, field)) in message


def spoil(path, how):
    whole = path.read_bytes()
    if how == "no metadata":
        save_file({"features": torch.zeros(2, 3)}, path)
    elif how == "other metadata":
        save_file({"positions": torch.zeros(2)}, path, metadata={"source": json.dumps({"encoder": "RN50"})})
    else:
        path.write_bytes({"empty": b"", "cut": whole[:-7], "header cut": whole[:50], "garbage": b"x" * 500}[how])


@pytest.mark.parametrize("how", ["empty", "cut", "header cut", "garbage", "no metadata", "other metadata"])
def test_a_damaged_file_is_reported_by_name(tmp_path, how):
    write(tmp_path, [0, 1])
    path = write(tmp_path, [2, 3])
    spoil(path, how)
    with pytest.raises(UserError, match=rf"{path.name} cannot be read .*remove it"):
        Bank(tmp_path)
    write_texts(tmp_path / "texts.safetensors", Texts(torch.zeros(1, 3), torch.zeros(1).long(), ["a dog"], SOURCE))
    spoil(tmp_path / "texts.safetensors", how)
    with pytest.raises(UserError, match=r"texts.safetensors cannot be read .*remove it"):
        read_texts(tmp_path / "texts.safetensors")


def test_a_vanished_shard_is_reported(tmp_path):
    path = write(tmp_path, [0, 1])
    bank = Bank(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name} cannot be opened"):
        bank.read([0])


def test_files_of_a_killed_writer_are_ignored(tmp_path):
    path = write(tmp_path, [0, 1])
    path.with_name(f".{path.name}.abc.tmp").write_bytes(b"half a shard")
    assert len(Bank(tmp_path)) == 2


def test_reading_maps_shards(tmp_path):
    count, width = 16384, 1024  # 64 MiB: 16384 pages
    write_shard(tmp_path, SOURCE, list(range(count)), torch.arange(count), torch.ones(count, width))

    def pages_of(positions):
        bank = Bank(tmp_path)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bank.read(positions)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert pages_of([3, 5000, 9000, 16000]) < 300
    assert pages_of([16000, 3]) < 300


def test_texts(tmp_path):
    path = FeaturePaths.of(tmp_path, "RN50", "dtd").texts(0, "hand_crafted")
    assert path == tmp_path / "RN50" / "dtd" / "text-layer_0" / "hand_crafted.safetensors"
    with pytest.raises(MissingFeatures, match="hand_crafted"):
        read_texts(path)
    texts = Texts(torch.randn(3, 4), torch.tensor([0, 0, 1]), ["a dog.", "the dög!", 'a "cat"'], SOURCE)
    for names in (["dög", "big_cat"], None):  # as in older versions
        write_texts(path, replace(texts, classnames=names))
        assert read_texts(path).classnames == read_texts_classnames(path) == names
    for names, fault in ((["dog"], "1 class names of 2 classes"), (["dog", 1], "its classnames are not a list of")):
        write_texts(path, replace(texts, classnames=names))
        with pytest.raises(MissingFeatures, match=fault):
            read_texts(path)
    write_texts(path, texts)
    found = read_texts(path)
    assert torch.equal(found.features, texts.features)
    assert torch.equal(found.labels, texts.labels)
    assert (found.prompts, found.provenance) == (texts.prompts, SOURCE)


def test_paths_of_banks(tmp_path):
    place = FeaturePaths.of(str(tmp_path), "ViT-B-16", "dtd")
    assert place.bank("train", -1, "flip") == tmp_path / "ViT-B-16" / "dtd" / "train-layer_-1" / "flip"


def _write_again_and_again(folder, worker):
    for turn in range(30):
        start = turn % 4 * 64
        write(folder, list(range(start, start + 64)))
        write(folder, [1000 + worker, 1000 + turn])


def test_writers_and_readers_at_once(tmp_path):
    """Four processes write common and separate shards while this one reads."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_again_and_again, args=(tmp_path, worker)) for worker in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        bank = Bank(tmp_path)
        there = [position for position in range(256) if not bank.missing([position])]
        if there:
            assert torch.equal(bank.read(there)[0], rows(there)[1])
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert torch.equal(Bank(tmp_path).read(list(range(256)))[0], rows(range(256))[1])
    assert not list(tmp_path.glob(".*"))


def test_the_bytes_of_a_shard_follow_from_its_rows(tmp_path):
    digests = {
        hashlib.sha256(write(tmp_path / name / "bank", [4, 2]).read_bytes()).hexdigest() for name in ("a/a", "b/a")
    }
    assert len(digests) == 1
