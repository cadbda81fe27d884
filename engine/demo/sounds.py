"""Generate the sounds of the demo world, and the demo's ESC-50: wav files in the same layout.

    python -m engine.demo.sounds [DATA_DIR]

DATA_DIR/demo_sounds/      meta/esc50.csv, audio/<fold>-<clip>-<target>-v<version>.wav: a second of 8 kHz, mono, 16 bit

The look of an object determines its sound: shape is timbre, colour is pitch, pattern is rhythm and size is loudness. A
noisy or blurry picture is a noisy or muffled sound. Unseen kinds can therefore be recognised from their attributes, in
sounds as in pictures.

Targets have another order than the demo's labels: only the class names connect them. With the same version of numpy,
files are identical byte for byte. The table is written last.
"""

from __future__ import annotations

import argparse
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from engine import terminal
from engine.datasets import esc50
from engine.demo import world
from engine.errors import UserError
from engine.files import read_json, write_atomically, write_json, write_text

VERSION = 1  # raise it whenever a sound, a class or the layout changes
SEED = 1
FOLDER = "demo_sounds"
FOLDS, CLIPS = 5, 8  # as ESC-50: eight clips per class and fold
_STAMP = {"version": VERSION, "seed": SEED}

RATE = LENGTH = 8000  # samples per second, and per clip
LOWEST = 250.0  # Hz
STEP = 3.0  # semitones from one colour to the next

PARTIALS = {
    "circle": ((1, 1.0),),
    "square": ((1, 1.0), (3, 0.7), (5, 0.5), (7, 0.4)),
    "triangle": ((1, 0.3), (2, 1.0), (3, 0.3)),
    "star": tuple((k, k**-0.2) for k in range(1, 13)),
    "heart": ((1, 1.0), (2, 0.4)),
    "cross": ((1, 1.0), (2.76, 0.8), (5.4, 0.6)),
    "ring": ((1, 0.8), (4, 0.9), (8, 0.5)),
    "moon": ((1, 0.7),),
}
"""Multiples of the pitch and their amplitudes, by shape."""
VIBRATO = {"heart": 0.03}
"""The largest deviation of the pitch, relative to it."""
BREATH = {"moon": 0.35}
"""Amplitude of the noise in a tone."""
LOUDNESS = {"small": 0.5, "medium": 0.7, "large": 1.0}
BEATS = {"plain": 1.0, "striped": 5.0, "dotted": 8.0, "checkered": 3.5}
"""Beats per second, by pattern."""


@dataclass(frozen=True)
class Style:
    """How scenes sound. The defaults are the style of the encoder's training sounds."""

    shift: float = 0.0  # semitones, for all pitches
    detune: float = 0.4  # semitones, standard deviation from clip to clip
    tempo: tuple[float, float] = (0.85, 1.15)  # relative
    noise: tuple[float, float] = (0.01, 0.03)  # standard deviation, relative to the loudest tone
    echo: tuple[float, float] = (0.0, 0.1)  # strength
    muffled: float = 0.0  # weight of the previous sample: a low-pass filter


PRETRAINING = Style()
DEMO = Style(shift=0.9, detune=0.6, tempo=(1.1, 1.6), noise=(0.05, 0.15), echo=(0.3, 0.6), muffled=0.4)
"""The style of the demo's sounds: tuned higher, faster, noisier, in a room, through a wall."""


def sound(scene: world.Scene, style: Style, rng: Generator) -> np.ndarray:
    """Return the sound of `scene` in `style`, float32 [LENGTH] in [-1, 1]."""
    pattern, colour, shape = scene.kind
    semitones = STEP * list(world.COLOURS).index(colour) + style.shift + rng.normal(0, style.detune)
    tone = _tone(shape, LOWEST * 2 ** (semitones / 12), rng)
    samples = LOUDNESS[scene.size] * _rhythm(pattern, tone, BEATS[pattern] * rng.uniform(*style.tempo), rng)
    samples = _add_echo(samples, rng.uniform(*style.echo), rng)
    muffled = style.muffled + (0.4 if scene.quality == "blurry" else 0.0)
    samples = (1 - muffled) * samples + muffled * np.roll(samples, 1)
    noise = rng.uniform(*style.noise) + (rng.uniform(0.03, 0.1) if scene.quality == "noisy" else 0.0)
    samples = 0.3 * (samples + noise * rng.standard_normal(LENGTH))
    return np.clip(samples, -1, 1).astype(np.float32)


def _tone(shape: str, pitch: float, rng: Generator) -> np.ndarray:
    """Return a steady tone [LENGTH] of about unit amplitude, `pitch` in Hz, without partials too high for 8 kHz."""
    time = np.arange(LENGTH) / RATE
    swing = VIBRATO.get(shape, 0.0) / (2 * np.pi * 6) * np.sin(2 * np.pi * (6 * time + rng.random()))
    partials = [(multiple, amplitude) for multiple, amplitude in PARTIALS[shape] if multiple * pitch < 0.48 * RATE]
    waves = [a * np.sin(2 * np.pi * (k * pitch * (time + swing) + rng.random())) for k, a in partials]
    tone = np.sum(waves, axis=0) / np.sqrt(sum(amplitude**2 for _, amplitude in partials))
    return tone + BREATH.get(shape, 0.0) * rng.standard_normal(LENGTH)


def _rhythm(pattern: str, tone: np.ndarray, beats: float, rng: Generator) -> np.ndarray:
    """Return a tone in the rhythm of a pattern, with `beats` per second."""
    phase = np.arange(LENGTH) / RATE * beats + rng.random()
    fraction = phase - np.floor(phase)
    if pattern == "plain":
        return tone
    if pattern == "striped":
        return tone * (fraction < 0.5)
    if pattern == "dotted":
        return 1.5 * tone * np.exp(-fraction * 12)
    hiss = rng.standard_normal(LENGTH)
    return np.where(fraction < 0.5, tone, 0.4 * hiss)


def _add_echo(samples: np.ndarray, strength: float, rng: Generator) -> np.ndarray:
    """Return samples with the echoes from two walls."""
    echoing = samples.copy()
    for delay in rng.integers(RATE // 50, RATE // 8, size=2):
        echoing[delay:] += strength * samples[:-delay]
        strength /= 2
    return echoing


# -------------------------------------------------------------------------------------------------------------- ESC-50

CATEGORIES = {kind.name.replace(" ", "_"): kind for kind in sorted(world.HELD_OUT, key=lambda kind: kind[::-1])}
"""The demo's classes with names in ESC-50's style; target k is the k-th."""


def install(data_dir: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write the demo's sounds under `data_dir`, unless they are complete; return their folder.

    `progress(done, total)` is called after each sound that is made.
    """
    folder = Path(data_dir) / FOLDER
    if is_complete(folder):
        return folder
    table = folder / "meta" / "esc50.csv"
    table.unlink(missing_ok=True)
    lines = ["filename,fold,target,category"]
    clips = [(fold, clip, name) for fold in range(1, FOLDS + 1) for clip in range(CLIPS) for name in CATEGORIES]
    for done, (fold, clip, name) in enumerate(clips, start=1):
        target = list(CATEGORIES).index(name)
        filename = f"{fold}-{clip}-{target}-v{VERSION}.wav"
        rng = world.generator(SEED, f"sound {name}", fold * CLIPS + clip)
        samples = sound(world.random_scene(CATEGORIES[name], rng), DEMO, rng)
        write_atomically(folder / "audio" / filename, lambda path, samples=samples: _write_wav(path, samples))
        lines.append(f"{filename},{fold},{target},{name}")
        if progress is not None:
            progress(done, len(clips))
    write_json(folder / "world.json", _STAMP)
    write_text(table, "\n".join(lines) + "\n")
    return folder


def is_complete(folder: Path) -> bool:
    """Return whether all sounds of this version are in `folder`."""
    try:
        stamp = read_json(folder / "world.json")
        esc50.load(folder)  # raises for a deleted clip, which is then made again
    except (OSError, ValueError, UserError):
        return False
    return stamp == _STAMP


def _write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())


def main() -> None:
    from engine.config.default import DATA_DIR

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, nargs="?", default=Path(DATA_DIR), help="default: %(default)s")
    args = parser.parse_args()
    with terminal.bar(desc="making the demo's sounds", unit="sound") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        folder = install(args.data_dir, show)
    terminal.say(folder)


if __name__ == "__main__":
    from engine import config  # only scripts import config

    config.run(main)
