"""Files of weights: wrappers are removed, no code in them is run, and files without weights are reported."""

import pickle
import zipfile

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine.clip import checkpoints, fit, weights
from engine.errors import UserError
from hostile import save_hostile

# the archives that tests make
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


def tensors():
    """A state dict with the difficult cases: shared storage, a slice, a transposed matrix, several types."""
    base = torch.arange(12.0).reshape(3, 4)
    kinds = {str(kind)[6:]: torch.ones(3, dtype=kind) for kind in (torch.float16, torch.bfloat16, torch.int64)}
    views = {"whole": base, "row": base[1], "columns": base.T[1:], "scalar": torch.tensor(2.0), "none": torch.zeros(0)}
    return {**kinds, **views, "parameter": nn.Parameter(torch.ones(2))}


def equal(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


# --- formats and wrappings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [torch.save, legacy])
def test_the_tensors_of_torchs_files_are_read_without_torch(tmp_path, write):
    write(tensors(), tmp_path / "w.pt")
    assert equal(checkpoints.read(str(tmp_path / "w.pt")), torch.load(tmp_path / "w.pt", weights_only=True))


@pytest.mark.parametrize("write", [torch.save, legacy])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": {"state_dict": state}}])
def test_wrappings_and_prefixes_are_taken_off(tmp_path, write, prefix, wrap):
    state = {f"{prefix}{name}": value for name, value in tensors().items()}
    rest = {"epoch": 3, "args": pickle.Pickler, "optimizer": {"state": {0: torch.ones(2)}}, "loss": torch.ones(1)}
    content = wrap(state)
    write(content | rest if content is not state else content, tmp_path / "W.PT")
    assert equal(checkpoints.read(str(tmp_path / "W.PT")), tensors())


def test_a_prefix_of_some_names_is_part_of_them(tmp_path):
    state = {"model.a": torch.ones(1), "module.b": torch.ones(1), "model": torch.ones(1)}
    save_file(state, tmp_path / "W.SAFETENSORS")
    assert checkpoints.read(str(tmp_path / "W.SAFETENSORS")).keys() == state.keys()


class Scripted(nn.Module):
    """Parameters, buffers, shared modules, and tensors outside of the state."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(2)), None
        self.plain, self.listed, self.size = torch.ones(2), [torch.ones(1)], 3
        self.register_buffer("running", torch.ones(1))
        self.layers = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
        self.again = self.layers

    def forward(self, x):
        return self.again(self.layers(x)) + self.weight + self.plain + self.running + self.listed[0]


def test_scripted_models_have_the_tensors_of_their_state_dict(tmp_path):
    torch.jit.script(Scripted().half()).save(tmp_path / "scripted.pt")
    torch.jit.trace(Scripted(), torch.ones(2, 2), check_trace=False).save(tmp_path / "traced.pt")
    for name in ("scripted.pt", "traced.pt"):
        found = checkpoints.read(str(tmp_path / name))
        assert equal(found, torch.jit.load(tmp_path / name).state_dict())
        assert "plain" not in found


# --- nothing is run --------------------------------------------------------------------------------------------------


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w')",)


def test_the_code_of_an_archive_is_not_run(tmp_path):
    sprung = tmp_path / "sprung"
    save_hostile(tmp_path / "w.pt", sprung)
    with pytest.raises(UserError, match=r"w.pt is TorchScript whose .*Hostile is restored by code .* save the wei"):
        checkpoints.read(str(tmp_path / "w.pt"))
    assert not sprung.exists()
    torch.jit.load(tmp_path / "w.pt")
    assert sprung.exists()  # otherwise the test proves nothing


@pytest.mark.parametrize("write", [torch.save, legacy])
def test_the_code_of_a_pickle_is_not_run(tmp_path, write):
    for number, content in enumerate((Trap(tmp_path / "sprung"), {"state_dict": Trap(tmp_path / "sprung")})):
        write(content, tmp_path / f"{number}.pt")
        with pytest.raises(UserError, match=r"a whole pickled object .*exec.*Save its weights alone"):
            checkpoints.read(str(tmp_path / f"{number}.pt"))
    beside = {"state_dict": tensors(), "hook": Trap(tmp_path / "sprung")}
    write(beside, tmp_path / "w.pt")
    assert equal(checkpoints.read(str(tmp_path / "w.pt")), tensors())
    assert not (tmp_path / "sprung").exists()


def rezipped(source, target, change=lambda name, content: content, **settings):
    """Pack an archive of torch again, with changed entries."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **settings) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


def test_archives_that_inflate_are_refused(tmp_path):
    torch.save({"a": torch.zeros(8 << 20)}, tmp_path / "plain.pt")
    rezipped(tmp_path / "plain.pt", tmp_path / "w.pt", compression=zipfile.ZIP_DEFLATED)
    np.savez_compressed(tmp_path / "w.npz", a=np.zeros(8 << 20, "float32"))
    for path in ("w.pt", "w.npz"):
        with pytest.raises(
            UserError, match=r"has [\d,]+ bytes and would unpack to 33,55.,...: it is not a file of wei"
        ):
            fit.build("RN50", {}, str(tmp_path / path))


def test_pickles_that_demand_memory_or_time_are_refused(tmp_path):
    torch.save(tensors(), tmp_path / "plain.pt")
    hostile = {
        "an index": b"\x80\x02}r\xff\xff\xff\x7f.",  # a memo of 16 GiB, in C
        "bytes": b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",
        "a function": b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85R.",
        "no end": b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.",  # contains itself
        "a key that takes for ever to hash": b"\x80\x02})" + 100 * b"2\x86" + b"K\x01s.",
    }
    for pickled in hostile.values():
        rezipped(
            tmp_path / "plain.pt",
            tmp_path / "w.pt",
            lambda name, old, pickled=pickled: pickled if name.endswith("data.pkl") else old,
        )
        with pytest.raises(UserError, match=r"w.pt (is damaged|has no weights|is a whole pickled object)"):
            checkpoints.read(str(tmp_path / "w.pt"))


def test_tensors_beyond_their_numbers_are_refused(tmp_path):
    torch.save({"a": torch.ones(4)}, tmp_path / "plain.pt")
    rezipped(tmp_path / "plain.pt", tmp_path / "w.pt", lambda name, old: old[:8] if name.endswith("data/0") else old)
    with pytest.raises(UserError, match=r"w.pt is damaged"):
        checkpoints.read(str(tmp_path / "w.pt"))


# --- what is no weights ----------------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(12.0).numpy().tobytes()) + 20] ^= 1
    path.write_bytes(content)


def saved(write, change=lambda path: None, content=tensors):
    def make(path):
        write(content(), path)
        change(path)

    return make


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


FILES = {
    "empty": (lambda path: path.touch(), "is empty"),
    "zeros": (lambda path: path.write_bytes(bytes(2000)), "begins with zeros"),
    "lfs": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid"), "pointer of Git LFS"),
    "html": (lambda path: path.write_text("\n <!DOCTYPE html><html>"), "is a web page"),
    "json": (lambda path: path.write_text('{"a": 1}'), "is JSON"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b123"), "compressed with gzip"),
    "garbage": (lambda path: path.write_bytes(b"not weights" * 100), "is of an unknown format"),
    "zip": (zipped, "zip archive without weights"),
    "cut": (saved(torch.save, cut), "is truncated"),
    "cut-legacy": (saved(legacy, cut), "is damaged"),
    "cut-safetensors": (saved(lambda state, path: save_file({"a": torch.ones(99)}, path), cut), "is damaged"),
    "flipped": (saved(torch.save, flipped), "is damaged.*Bad CRC-32"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"a": [1]})), "has no weights, but 'a'"),
    "list": (saved(torch.save, content=lambda: [1, 2]), "contains one list"),
    "nothing": (saved(torch.save, content=dict), "has no weights, but nothing"),
    "others": (saved(torch.save, content=lambda: tensors() | {"step": 3}), "step among its weights"),
    "two": (saved(torch.save, content=lambda: dict.fromkeys(("model", "state_dict"), tensors())), "two sets"),
    "net": (
        saved(torch.save, content=lambda: {"net": tensors()}),
        "but 'net'; a checkpoint must have them as state_dict or m",
    ),
    "module": (saved(torch.save, content=lambda: nn.Linear(2, 2)), r"whole pickled object \(torch.nn.modules.linear"),
    "sparse": (saved(torch.save, content=lambda: {"a": torch.ones(2), "b": torch.eye(3).to_sparse()}), "b among its"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_without_weights_are_reported(tmp_path, name):
    write, message = FILES[name]
    write(tmp_path / "w.pt")
    with pytest.raises(UserError, match=rf"w\.pt:? .*{message}") as caught:
        checkpoints.read(str(tmp_path / "w.pt"))
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_weights_must_fit_exactly(small, tmp_path):
    model = small("ViT-B-32")
    right = model.state_dict()
    wrong = {
        "shape": right | {"visual.positional_embedding": right["visual.positional_embedding"][:3]},
        "text": right | {"positional_embedding": torch.ones(9, 8)},
        "missing": {name: value for name, value in right.items() if name not in ("ln_final.bias", "logit_scale")},
        "unexpected": right | {"head.weight": torch.ones(1)},
        "whole": right | {"ln_final.bias": torch.ones(8, dtype=torch.int8)},
        "nan": right | {"ln_final.bias": torch.full((8,), torch.nan), "logit_scale": torch.tensor(torch.inf)},
    }
    messages = {
        "shape": "ViT-B-32:\n  other shapes: visual.positional_embedding is 3 x 16 and must be 5 x 16",
        "text": "other shapes: positional_embedding is 9 x 8 and must be 16 x 8",
        "missing": "missing: logit_scale, ln_final.bias",
        "unexpected": "unexpected: head.weight",
        "whole": "not floating point: ln_final.bias (torch.int8)",
        "nan": "NaN or infinite numbers in 2 tensors: logit_scale, ln_final.bias",
    }
    for name, state in wrong.items():
        save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "w.safetensors")
        with pytest.raises(UserError) as caught:
            fit.build("ViT-B-32", {}, str(tmp_path / "w.safetensors"))
        assert messages[name] in str(caught.value)


def test_state_dicts_are_converted_like_open_clip(small, tmp_path):
    """Names without a text module, positions of old text towers, scalars as vectors, a bias for SigLIP."""
    right = small("ViT-B-32").state_dict()
    old = right | {"logit_scale": right["logit_scale"].reshape(1), "context_length": torch.tensor(16)}
    save_file(old, tmp_path / "w.safetensors")
    assert equal(fit.build("ViT-B-32", {}, str(tmp_path / "w.safetensors")).state_dict(), right)
    custom = open_clip.create_model("ViT-B-32", force_custom_text=True, init_logit_bias=-1)
    converted = fit._convert(old | {"text.transformer.embeddings.position_ids": torch.zeros(1)}, custom)
    assert converted.keys() == custom.state_dict().keys()
    assert torch.equal(converted["text.positional_embedding"], right["positional_embedding"])
    assert converted["logit_bias"] == 0


def test_big_visions_files_have_as_many_numbers_as_the_architecture(small, tmp_path, monkeypatch):
    """open_clip's loader skips layers that a model lacks, and resizes patches."""
    monkeypatch.setattr(fit, "load_big_vision_weights", lambda model, path: None)
    needed = sum(part.numel() for part in small("ViT-B-32").parameters())
    counted = {"params/img/a": needed - 3, "params/txt/b": 1, "params/b": 1, "params/t": 1}
    np.savez(tmp_path / "w.npz", **{name: np.zeros(size, "int8") for name, size in (counted | {"opt/img": 9}).items()})
    fit.build("ViT-B-32", {}, str(tmp_path / "w.npz"))
    np.savez(tmp_path / "w.npz", **{name: np.zeros(size + 1, "int8") for name, size in counted.items()})
    with pytest.raises(ValueError, match=rf"the file has {needed + 4:,} numbers, and the architecture {needed:,}"):
        fit.build("ViT-B-32", {}, str(tmp_path / "w.npz"))


# --- weights without a tag -------------------------------------------------------------------------------------------


def test_tags_with_several_settings_must_be_named(tmp_path):
    (tmp_path / "w.pt").touch()
    for name, kinds in {"ViT-B-32": 2, "ViT-L-14": 3, "ViT-H-14": 3, "ViT-H-14-quickgelu": 2}.items():
        with pytest.raises(UserError, match=rf"{name}: its pretrained weights are of {kinds} kinds") as caught:
            weights.locate(name, str(tmp_path / "w.pt"))
        lines = str(caught.value).splitlines()[1:]
        listed = {tag for line in lines for tag in line.rpartition(": ")[2].split(", ")}
        assert listed == set(open_clip.list_pretrained_tags_by_model(name))
        assert len(lines) == kinds
    assert "resize squash bicubic" in str(caught.value)


def test_tags_with_equal_settings_need_no_tag(tmp_path):
    (tmp_path / "w.pt").touch()
    file = str(tmp_path / "w.pt")
    assert weights.locate("MobileCLIP-S1", file).config == weights.locate("MobileCLIP-S1:datacompdr", file).config
    for name, settings in {
        "MobileCLIP-S1": "GELU, resize shortest bilinear, mean 0.0 0.0 0.0, std 1.0 1.0 1.0",
        "ViT-B-16-SigLIP": "GELU, resize squash bicubic, mean 0.5 0.5 0.5, std 0.5 0.5 0.5",
        "ViT-B-32-quickgelu": "QuickGELU, resize shortest bicubic, mean 0.48145466 0.4578275 0.40821073, std ",
        "ViT-S-16": "GELU, resize shortest bicubic, mean 0.48145466",
    }.items():
        assert f"{name} with {file} is assumed to have {settings}" in weights.locate(name, file).assumed
    for name in ("RN50", "ViT-B/32", "ViT-B-32:openai", "demo-RN"):
        assert not weights.locate(name, file).assumed
