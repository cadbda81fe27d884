"""Loading the released file's format: random weights under its names, with other parts of AudioCLIP beside them."""

import os
import pickle

import pytest
import torch

from audioclip import checkpoint
from audioclip.tower import AudioTower
from engine import released
from engine.errors import UserError


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(3)
    return AudioTower()


@pytest.fixture
def saved(tower, tmp_path):
    """`saved(change, name)`: the path of a checkpoint after `change(state)`."""

    def save(change=lambda state: None, name="some.pt"):
        state = {f"audio.{key}": value for key, value in tower.state_dict().items()}
        state |= {
            "logit_scale": torch.ones([]),
            "visual.conv1.weight": torch.ones(2, 3),
            "transformer.x": torch.ones(1),
        }
        change(state)
        torch.save(state, tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture(scope="module")
def encoder(tower, tmp_path_factory):
    """The encoder of a whole checkpoint in torch's older format, which is no zip file."""
    path = tmp_path_factory.mktemp("old") / "some.pt"
    state = {f"audio.{key}": value for key, value in tower.state_dict().items()}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return checkpoint.load_encoder(path)


def test_every_weight_is_the_one_of_its_name(tower, encoder):
    assert encoder.tower.state_dict().keys() == tower.state_dict().keys()
    for name, value in encoder.tower.state_dict().items():
        assert torch.equal(value, tower.state_dict()[name]), name


def test_the_empty_entry_may_be_missing(saved, encoder):
    without = saved(lambda state: state.pop("audio.fbsp.bias"))
    assert checkpoint.load_encoder(without).digest == encoder.digest


def test_other_weights_have_another_digest(saved, encoder):
    changed = saved(lambda state: state.update({"audio.fbsp.m": torch.full([1025], 1e-7)}))
    assert checkpoint.load_encoder(changed).digest != encoder.digest


def test_names_that_do_not_fit_are_named(saved):
    def change(state):
        del state["audio.att3.bn.running_var"], state["audio.window"]
        state["audio.att6.bn.weight"] = torch.ones(2)
        state["audio.fc.bias"] = torch.ones(1000)
        state["audio.fbsp.bias"] = torch.ones(1025)

    with pytest.raises(UserError) as error:
        checkpoint.load_encoder(saved(change))
    assert "2 missing: audio.att3.bn.running_var, audio.window" in str(error.value)
    assert "1 unexpected: audio.att6.bn.weight" in str(error.value)
    assert "2 of another shape: audio.fbsp.bias, audio.fc.bias" in str(error.value)


def test_a_file_of_the_released_name_must_be_the_released_file(saved, monkeypatch):
    path = saved(name=released.NAME)
    with pytest.raises(UserError, match=r"it has \d+ bytes, not 537302068"):
        checkpoint.load_encoder(path)
    monkeypatch.setattr(released, "BYTES", path.stat().st_size)
    with pytest.raises(UserError, match=r"its SHA-256 is .* not 1921885b6c3b"):
        checkpoint.load_encoder(path)


def test_what_is_no_checkpoint(saved, tmp_path):
    def refuse(path, reason):
        with pytest.raises(UserError, match=reason) as error:
            checkpoint.load_encoder(path)
        assert str(path) in str(error.value)

    refuse(tmp_path / "none.pt", "does not exist.\nGet AudioCLIP-Partial-Training.pt")
    (tmp_path / "text.pt").write_text("not found")
    refuse(tmp_path / "text.pt", "cannot be read as a PyTorch state dict")
    (tmp_path / "empty.pt").touch()
    refuse(tmp_path / "empty.pt", "cannot be read as a PyTorch state dict")
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    refuse(tmp_path / "list.pt", "cannot be read as a PyTorch state dict")
    torch.save({"visual.conv1.weight": torch.ones(1)}, tmp_path / "clip.pt")
    refuse(tmp_path / "clip.pt", r"has no audio\.\* entries")


def test_nothing_but_tensors_is_unpickled(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    torch.save({"audio.window": Harm()}, tmp_path / "harm.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Harm(), protocol=2))
    for name in ("harm.pt", "plain.pt"):
        with pytest.raises(UserError, match="cannot be read as a PyTorch state dict"):
            checkpoint.load_encoder(tmp_path / name)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_fresh_encoder_does_not_know_what_was_encoded_before(encoder, mode):
    sounds = 0.1 * torch.randn(3, 1, 4000, generator=torch.Generator().manual_seed(1))
    first = encoder.fresh(mode)(sounds)
    encoder.fresh("train")(sounds.flip(-1))
    assert torch.equal(encoder.fresh(mode)(sounds), first)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(3))


def test_in_train_mode_features_depend_on_who_shares_the_batch(encoder):
    sounds = torch.randn(4, 1, 4000, generator=torch.Generator().manual_seed(1))
    apart = {
        mode: (encoder.fresh(mode)(sounds)[:2] - encoder.fresh(mode)(sounds[:2])).norm() for mode in ("train", "eval")
    }
    assert apart["train"] > 0.1
    assert apart["eval"] < 1e-5
