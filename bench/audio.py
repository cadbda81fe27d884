"""Measure speed and memory of audio feature extraction, compared with the trunk alone.

    python bench/audio.py
    python bench/audio.py --clock cpu --threads 1     # on a busy machine

Batches of 10 clips of 5 s, random weights. Prints medians of several rounds; each round measures all contenders in
turn. The ratio is the median of the rounds' ratios, because other work on the machine slows both. Contenders:

features  from wav files to features: reading, front end and trunk, like audio_features.py
trunk     the trunk alone, on precomputed spectrograms
plain     torchvision's unmodified resnext50_32x4d (no attention) on the same spectrograms, for comparison
memory    peak memory of the process during feature extraction, Python and libraries included
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import soundfile  # noqa: E402
import torch  # noqa: E402
from torchvision.models import resnext50_32x4d  # noqa: E402

from audioclip import frontend  # noqa: E402
from audioclip.tower import AudioTower  # noqa: E402
from engine import sounds  # noqa: E402

CLIPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    clocks = {"wall": time.perf_counter, "cpu": time.process_time}
    parser.add_argument("--clock", choices=list(clocks), default="wall", help="wall-clock time or CPU time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="device of the trunk")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{machine(args.device)}; Python {platform.python_version()}, torch {torch.__version__}")
    tower = AudioTower().requires_grad_(False).to(args.device)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        paths = [Path(folder) / f"{number}.wav" for number in range(CLIPS)]
        for path in paths:
            soundfile.write(path, 0.1 * torch.randn(frontend.SAMPLES).numpy(), frontend.RATE, subtype="PCM_16")
        read = [sounds.read(path, frontend.RATE, frontend.SAMPLES) for path in paths]
        levels = tower.front_end(torch.stack(read)).to(args.device)

        def features() -> torch.Tensor:
            batch = torch.stack([sounds.read(path, frontend.RATE, frontend.SAMPLES) for path in paths])
            return tower(batch).cpu()

        features()
        print(f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB at most")
        plain = resnext50_32x4d(num_classes=1024).to(args.device)
        contenders = {
            "features": features,
            "trunk": lambda: tower.trunk(levels).cpu(),
            "plain": lambda: plain(levels[:, 0]).cpu(),
        }
        for mode in ("train", "eval"):
            tower.train(mode == "train")
            plain.train(mode == "train")
            times = measure(contenders, args.rounds, clocks[args.clock])
            shown = ", ".join(f"{name} {statistics.median(found) / CLIPS * 1000:.0f}" for name, found in times.items())
            ratio = statistics.median(a / b for a, b in zip(times["features"], times["trunk"], strict=True))
            print(f"{mode}(): ms a clip: {shown}; features/trunk {ratio:.3f}", flush=True)


def measure(
    contenders: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds of each contender in several rounds, after a warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            began = clock()
            contender()
            if number:
                times[name].append(clock() - began)
    return times


def machine(device: str) -> str:
    """Return the name of the GPU, or of the CPU with the number of threads."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.machine())}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
