"""Sound files of every kind as samples of one rate and length."""

import math

import numpy as np
import pytest
import soundfile
import torch

from engine import sounds
from engine.sounds import UnreadableSound

RATE = 8000


@pytest.fixture
def saved(tmp_path):
    """`saved(samples, rate)`: the path of a wav file."""

    def write(samples, rate=RATE, subtype="PCM_16"):
        soundfile.write(tmp_path / "sound.wav", np.asarray(samples), rate, subtype=subtype)
        return tmp_path / "sound.wav"

    return write


def tone(seconds, rate, hertz=440):
    return 0.5 * np.sin(2 * math.pi * hertz * np.arange(int(seconds * rate)) / rate)


def test_samples_are_16_bit_numbers_over_32768(saved):
    path = saved(np.array([0, 1, -1, 12345, 32767, -32768], dtype=np.int16))
    assert (sounds.read(path, RATE, 6) * 32768).tolist() == [[0, 1, -1, 12345, 32767, -32768]]
    assert sounds.read_format(path) == sounds.Format(RATE, 1, 6)


def test_cut_or_padded_at_the_end(saved):
    path = saved([0.25, 0.5, -0.5])
    assert sounds.read(path, RATE, 2).tolist() == [[0.25, 0.5]]
    assert sounds.read(path, RATE, 5).tolist() == [[0.25, 0.5, -0.5, 0, 0]]


def test_other_rates_and_stereo_are_refused_unless_converted(saved):
    path = saved(np.stack([tone(1, 44100), tone(1, 44100) / 2], axis=1), 44100)
    with pytest.raises(UnreadableSound, match="2 channels of 44100 Hz, but must have 1 of 8000 Hz"):
        sounds.read(path, RATE, RATE)
    found = sounds.read(path, RATE, RATE, resample=True)
    assert found.dtype == torch.float32
    inner = slice(200, -200)  # where the filter does not see the ends
    wanted = torch.from_numpy(0.75 * tone(1, RATE)).float()
    assert (found[0, inner] - wanted[inner]).abs().max() < 2e-3


def test_what_is_above_the_new_rates_half_is_gone(saved):
    path = saved(tone(1, 44100, hertz=6000), 44100)
    assert sounds.read(path, RATE, RATE, resample=True)[0, 200:-200].abs().max() < 0.01


def test_lengths_after_resampling_follow_the_rate():
    assert len(sounds.change_rate(torch.zeros(22050 * 5), 22050, 44100)) == 220_500
    assert len(sounds.change_rate(torch.zeros(48000 * 5), 48000, 44100)) == 220_500


@pytest.mark.parametrize("content", [b"", b"not a sound", b"RIFF\x24\x00\x00\x00WAVE"])
def test_what_is_no_sound(tmp_path, content):
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    for read in (sounds.read_format, lambda path: sounds.read(path, RATE, 4)):
        with pytest.raises(UnreadableSound):
            read(path)
    with pytest.raises(UnreadableSound):
        sounds.read(tmp_path / "none.wav", RATE, 4)


def test_nothing_or_no_numbers(saved):
    with pytest.raises(UnreadableSound, match="no samples"):
        sounds.read(saved(np.zeros(0)), RATE, 4)
    with pytest.raises(UnreadableSound, match="not finite"):
        sounds.read(saved([0, np.nan, 0], subtype="FLOAT"), RATE, 4)
