"""The front end against the reference's numbers."""

import hashlib

import pytest
import torch

from audioclip import frontend

I = torch.arange(1025, dtype=torch.float64)  # noqa: E741
PARAMETERS = {
    "fbsp_default": (0 * I, 0 * I + 1, I),
    "fbsp_perturbed": (
        0.5 + 0.4 * torch.sin(0.1 * I),
        1 + 0.2 * torch.cos(0.05 * I),
        I + 0.3 * torch.sin(0.2 * I),
    ),
}


def sha256(tensor):
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def test_the_window(goldens):
    assert sha256(frontend.window()) == goldens["window"]["sha256_float32"]


def test_the_times(goldens, fused_linspace):
    golden = goldens["t"]
    torch.testing.assert_close(frontend.times()[golden["at"]], torch.tensor(golden["t"]), rtol=3e-7, atol=3e-7)
    if fused_linspace:
        assert sha256(frontend.times()) == golden["sha256_float32_t"]


@pytest.mark.parametrize("which", PARAMETERS)
def test_the_kernels(goldens, which, fused_linspace):
    real, imaginary = frontend.kernels(*(p.float() for p in PARAMETERS[which]))
    golden = goldens["kernels"][which]
    # as far as another linspace can move them: a sample of the highest bin turns by 1024 times its rounding
    tolerance = 1e-7 if fused_linspace else 1e-4
    for row, sample, wanted_real, wanted_imaginary in golden["at"]:
        assert real[row, sample].item() == pytest.approx(wanted_real, abs=tolerance)
        assert imaginary[row, sample].item() == pytest.approx(wanted_imaginary, abs=tolerance)
    both = torch.stack([real, imaginary], dim=-1)
    assert both.abs().double().mean().item() == pytest.approx(golden["mean_abs"], rel=1e-5)
    assert both.abs().max().item() == pytest.approx(golden["max_abs"], rel=1e-5)


def test_kernels_are_those_of_a_discrete_fourier_transform():
    """With the initial parameters, on sampling points that include both ends; in float64 from the definition."""
    real, imaginary = frontend.kernels(*(p.float() for p in PARAMETERS["fbsp_default"]))
    angle = I[:, None] * torch.pi * torch.linspace(-1, 1, 2048, dtype=torch.float64)
    assert (real - torch.cos(angle) / 2048**0.5).abs().max() < 2e-5
    assert (imaginary + torch.sin(angle) / 2048**0.5).abs().max() < 2e-5


def test_the_scaling(goldens, golden_sounds):
    scaled = frontend.scale(torch.tensor(goldens["scale"]["in"]))
    assert scaled.tolist() == goldens["scale"]["out"]
    golden, scaled = goldens["scaled_unit"], frontend.scale(golden_sounds)
    assert (scaled.min().item(), scaled.max().item()) == (golden["min"], golden["max"])
    assert scaled.double().mean((1, 2)).tolist() == pytest.approx(golden["mean_per_clip"], rel=1e-6)


def test_the_framing(goldens):
    golden = goldens["framing_of_ramp_n_plus_1_no_window"]
    made = frontend.frames(torch.arange(1.0, 220_501.0)[None])
    assert list(made.shape) == golden["shape"]
    for frame, sample, value in golden["frame_sample_value"]:
        assert made[0, frame, sample] == value
    assert (made[0, 0] == 0).sum() == golden["leading_zeros_frame0"]
    assert (made[0, -1] == 0).sum() == golden["trailing_zeros_last"]


@pytest.mark.parametrize(("length", "count"), [(1, 1), (1654, 1), (1655, 2), (2215, 2), (2216, 3)])
def test_frames_of_short_sounds(length, count):
    made = frontend.frames(torch.ones(length))
    assert made.shape == (count, 1654)
    covered = torch.zeros((count - 1) * 561 + 1654)
    for frame in range(count):
        covered[frame * 561 : frame * 561 + 1654] = made[frame]
    assert covered.sum() == length
    before, after = covered.nonzero()[0].item(), len(covered) - 1 - covered.nonzero()[-1].item()
    assert after - before in (0, 1)


def test_decibels_of_the_sounds(goldens, golden_levels, same_rounding):
    golden = goldens["sets"]["unit_default"]
    assert list(golden_levels.shape) == golden["db_shape"]
    for *at, value, of_float64_kernels in golden["db"]:
        if abs(value - of_float64_kernels) < 1e-3 or same_rounding:
            assert golden_levels[(at[0], 0, *at[1:])].item() == pytest.approx(value, abs=1e-3)
    means = golden_levels.double().mean((1, 3, 4))
    tolerance = 1e-3 if same_rounding else 1.0
    torch.testing.assert_close(means, torch.tensor(golden["db_mean_per_clip_channel"]).double(), rtol=0, atol=tolerance)


def test_no_power_at_all():
    assert frontend.decibels(torch.zeros(2), torch.zeros(2)).tolist() == [-180.0, -180.0]


def test_channels_of_a_sound_are_groups(golden_sounds):
    sounds = golden_sounds[:4, :, :9000]
    kernels = frontend.kernels(*(p.float() for p in PARAMETERS["fbsp_default"]))
    each = frontend.spectrogram(sounds, frontend.window(), *kernels)
    stereo = frontend.spectrogram(sounds.view(2, 2, -1), frontend.window(), *kernels)
    assert stereo.shape == (2, 2, 3, 341, each.shape[-1])
    assert torch.equal(stereo.flatten(0, 1), each[:, 0])
