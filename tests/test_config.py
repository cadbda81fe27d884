"""Types and defaults of arguments; the scripts' tests cover their effects."""

import argparse

import pytest

from engine import config
from engine.config import types
from engine.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8G", 8 << 30), ("500M", 500 << 20), ("1.5k", 1536), ("2 TiB", 2 << 40), ("12", 12), ("3gb", 3 << 30)],
)
def test_sizes(text, expected):
    assert types.size(text) == expected


@pytest.mark.parametrize("text", ["", "G", "8X", "-1G", "0", "1.2.3", "nan"])
def test_invalid_sizes(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size such as 8G or 500M"):
        types.size(text)


@pytest.mark.parametrize(
    "name", ["meta", "xla", "hpu", "mkldnn", "vulkan", "cuda:99", "cpu:-1", "foo", "privateuseone"]
)
def test_devices_that_cannot_be_used(name, recwarn):
    with pytest.raises(UserError) as caught:
        config.device(argparse.Namespace(device=name))
    message = f"--device {name} cannot be used: PyTorch has no such device on this machine; it has cpu"
    assert str(caught.value).startswith(message)
    assert not recwarn.list


@pytest.mark.parametrize("flag", ["--method", "--mode"])
def test_a_method_sets_all_that_it_fixes(flag):
    """Like the known commands with three or four arguments; later arguments override it."""
    known = "--hyperparams partial --logit 4.0 --image-layer-idx 1".split()
    parse = config.parser("", "train.py").parse_args
    assert parse([flag, "partial"]) == parse(known)
    assert parse([flag, "adapter"]) == parse("--classifier_head adapter --hyperparams adapter".split())
    assert parse([flag, "linear"]) == parse([])
    assert parse([flag, "partial", "--logit", "3"]).logit == 3
    command = config.command("train.py", parse([flag, "partial", "--dataset", "dtd"]))
    assert command.startswith("python train.py --logit 4.0 --hyperparams partial --dataset dtd --train-shot 1 2")
