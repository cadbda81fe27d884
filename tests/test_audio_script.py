"""audioclip/audio_features.py as a user meets it: what it leaves in the store, killed or not, and what it says.

Most runs are forks of this process (`forks`) of a copy of the script, whose defaults lie in a folder of their own; the
tower is the real one with random weights, over sounds of a tenth of a second.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audioclip import frontend
from audioclip.tower import AudioTower
from engine import released, sounds
from engine.features import audio
from forks import Fork

ROOT = Path(__file__).parents[1]
LENGTH = 4410
FOLDS, CLIPS = 3, 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """`weights[k]`: two checkpoints of random weights."""
    folder, paths = tmp_path_factory.mktemp("weights"), []
    torch.manual_seed(0)
    state = {f"audio.{name}": value for name, value in AudioTower().state_dict().items()}
    for number in range(2):
        paths.append(folder / f"{number}.pt")
        torch.save(state | {"audio.fc.bias": torch.full([1024], 0.1 * number)}, paths[-1])
    return paths


@pytest.fixture
def world(tmp_path, weights):
    return install(tmp_path, weights)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, weights):
    """A world, always the same, in which the script has run without arguments but for those of this file."""
    world = install(tmp_path_factory.mktemp("finished"), weights)
    world.run = world.start().wait(check=0)
    return world


def install(root, weights):
    """A copy of the script with ESC-50 in its place, three folds of four clips; `start(...)` runs it."""
    (root / "audioclip").mkdir()
    shutil.copy(ROOT / "audioclip" / "audio_features.py", root / "audioclip")
    world = World(root, weights[0])
    (world.esc / "meta").mkdir(parents=True)
    (world.esc / "audio").mkdir()
    rng = np.random.default_rng(0)
    rows = ["filename,fold,target,category"]
    for k in range(FOLDS * CLIPS):
        label, fold = k % 2, k // CLIPS + 1
        rows.append(f"{k}.wav,{fold},{label},{['dog', 'rain'][label]}")
        soundfile.write(world.esc / "audio" / f"{k}.wav", 0.1 * rng.standard_normal(LENGTH), 44100, subtype="PCM_16")
    (world.esc / "meta" / "esc50.csv").write_text("\n".join(rows))
    return world


class World:
    def __init__(self, root, weights):
        self.root, self.weights = root, weights
        self.esc, self.folder = root / "data" / "ESC-50-master", root / "features" / "AudioCLIP" / "ESC-50"

    def start(self, *words, weights=None, prepare=lambda: None):
        def prepare_all():
            frontend.SAMPLES = LENGTH
            signal.signal(signal.SIGINT, signal.default_int_handler)
            prepare()

        fixed = ["--checkpoint", weights or self.weights, "--device", "cpu", "--batch-size", "4"]
        script = str(self.root / "audioclip" / "audio_features.py")
        return Fork(script, [*fixed, *words], self.root, prepare_all, cwd=self.root / "audioclip")

    def stored(self):
        """The features of the folds that are there, as bytes, by number."""
        numbers = [n for n in range(1, FOLDS + 1) if audio.fold_path(self.folder, n).exists()]
        return {n: fold.features.numpy().tobytes() for n, fold in audio.read_folds(self.folder, numbers).items()}


# --- what it leaves --------------------------------------------------------------------------------------------------


def test_a_file_for_each_fold_with_all_that_others_need(finished):
    world = finished
    assert f"{world.folder}: 3 folds, 3 to make: 12 clips to encode on cpu" in world.run.out
    assert "12/12" in world.run.err
    fold = audio.read_folds(world.folder, range(1, FOLDS + 1))[2]
    assert fold.features.shape == (CLIPS, 1024)
    torch.testing.assert_close(fold.features.norm(dim=1), torch.ones(CLIPS))
    assert fold.labels.tolist() == [0, 1, 0, 1]
    assert fold.categories == ["dog", "rain", "dog", "rain"]
    assert fold.positions.tolist() == [4, 5, 6, 7]
    assert fold.paths == [f"audio/{k}.wav" for k in range(4, 8)]
    assert (fold.provenance.mode, fold.provenance.audio_scale, fold.provenance.batch_size) == ("train", 1, 4)
    before = world.stored()
    again = world.start().wait(check=0)
    assert ", 0 to make" in again.out
    assert not again.err
    assert world.stored() == before


def test_after_ctrl_c_or_a_kill_it_goes_on_to_the_same_features(world, finished):
    def slowly():
        read = sounds.read
        sounds.read = lambda *words, **options: time.sleep(0.1) or read(*words, **options)

    interrupted = world.start(prepare=slowly)
    while not audio.fold_path(world.folder, 1).exists():
        assert not interrupted.ended(), interrupted.err
        time.sleep(0.01)
    os.kill(interrupted.pid, signal.SIGINT)
    interrupted.wait(check=130)
    assert "rerun the same command to resume" in interrupted.err
    assert len(world.stored()) < FOLDS
    audio.fold_path(world.folder, 1).unlink()  # as if another fold had been the first
    world.start().wait(check=0)
    assert world.stored() == finished.stored()
    assert not list(world.root.rglob(".*.tmp"))


def test_what_was_made_otherwise_is_refused(finished, weights):
    world = finished
    before = world.stored()
    run = world.start("--audio-scale", "32768", "--mode", "eval", "--batch-size", "3").wait(check=1)
    for difference in ("audio_scale: 1 there, 32768 here", "mode: train there, eval here", "batch_size: 4 there"):
        assert difference in run.err
    assert "--feature_dir" in run.err
    assert "encoder_digest" in world.start(weights=weights[1]).wait(check=1).err
    table = world.esc / "meta" / "esc50.csv"
    listed = table.read_text()
    table.write_text(listed.replace("rain", "snow"))
    assert "list_digest" in world.start().wait(check=1).err
    table.write_text(listed)
    assert world.stored() == before


# --- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["audioclip", "."])
def test_as_it_stands_it_says_what_to_download(tmp_path, where):
    for package in ("audioclip", "engine"):
        ignored = shutil.ignore_patterns("__pycache__", "*.pt", "models")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    script = os.path.relpath(tmp_path / "audioclip" / "audio_features.py", tmp_path / where)
    done = subprocess.run([sys.executable, script], cwd=tmp_path / where, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    for said in (
        f"error: ESC-50: its table {tmp_path}/data/ESC-50-master/meta/esc50.csv does not exist",
        "https://github.com/karolpiczak/ESC-50",
        f"checkpoint {tmp_path}/audioclip/{released.NAME} does not exist",
        "https://github.com/AndreyGuzhov/AudioCLIP",
    ):
        assert said in done.stderr


def test_unreadable_sounds_are_named_and_other_folds_made(world):
    bad = [world.esc / "audio" / name for name in ("0.wav", "9.wav")]
    whole = [path.read_bytes() for path in bad]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(b"RIFF, and then no sound")
    run = world.start().wait(check=1)
    assert "sound files that cannot be used: 2" in run.err
    assert [run.err.count(f"  {path}: ") for path in bad] == [1, 1]
    assert list(world.stored()) == [2]
    for path, content in zip(bad, whole, strict=True):
        path.write_bytes(content)
    world.start().wait(check=0)
    assert list(world.stored()) == [1, 2, 3]


def test_other_rates_and_stereo_are_named_and_converted_if_asked(world):
    low, stereo, short = (world.esc / "audio" / f"{k}.wav" for k in (1, 5, 6))
    samples, rate = soundfile.read(low)
    soundfile.write(low, samples, 22050)
    soundfile.write(stereo, np.stack([samples, samples], axis=1), rate)
    soundfile.write(short, samples[:100], rate)
    run = world.start("--mode", "eval").wait(check=1)
    assert "without --audio-scale 32768 features are poor" in run.out
    assert "error: 2 clips are not mono of 44100 Hz" in run.err
    assert f"{low} (22050 Hz, 1 channels), {stereo} (44100 Hz, 2 channels)" in run.err
    assert "--resample" in run.err
    assert world.stored() == {}
    run = world.start("--resample").wait(check=0)
    assert "note: 2 clips are converted to mono of 44100 Hz" in run.out
    assert f"note: 1 clips are not 4410 samples long, and are cut or zero-padded at the end: {short} (100)" in run.out
    assert len(world.stored()) == FOLDS


def test_batches_that_do_not_fill_a_fold_are_refused_in_train_mode(world):
    run = world.start("--batch-size", "6").wait(check=1)
    assert "fold 1 has 4 clips, no multiple of --batch-size 6" in run.err
    assert world.stored() == {}
    world.start("--batch-size", "6", "--force").wait(check=0)
    assert len(world.stored()) == FOLDS
