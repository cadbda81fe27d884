"""What scripts print can be printed anywhere: streams in ASCII, closed, full, and names with control characters."""

import contextlib
import gc
import io
import os
import subprocess
import sys
from pathlib import Path

import open_clip  # noqa: F401  so that scripts in forks need not import it
import pandas  # noqa: F401
import pytest
from PIL import Image

from engine import terminal
from forks import Fork
from records import CROSS, LINEAR, cell_of, write_cell

ROOT = Path(__file__).parents[1]
ODD = "写真\udcff\x1b[2J\r.jpg"
"""A name in another alphabet, with a byte that is no text, and with what clears a terminal and hides what was said."""
SHOWN = r"\u5199\u771f\udcff\x1b[2J\r.jpg"
SHOT = ["--train-shot", 1, "--seed", 1]
SCRIPTS = {
    "few_shot_split.py": ["--dataset", f"./{ODD}", *SHOT],
    "features.py": ["--dataset", f"./{ODD}", *SHOT],
    "train.py": ["--dataset", "dtd", *SHOT, "--indices_dir", ODD],
    "eval.py": ["--dataset", "dtd", *SHOT, "--result_dir", ODD],
    "average.py": ["--name", ODD],
    "domain_shift.py": ["--indices_dir", ODD],
    "eval_domain_shift.py": ["--result_dir", ODD],
    "imagenet_esc.py": ["--clip-weights", ODD, "--feature_dir", ODD],
    "tables.py": ["--table", ODD],
    "predict.py": ["--run", ODD, "a.jpg"],
    "check.py": ["--dataset", f"./{ODD}"],
    "audioclip/audio_features.py": ["--esc-dir", ODD],
    "engine/demo/install.py": [f"--{ODD}"],
    "engine/demo/sounds.py": [f"--{ODD}"],
}


def in_ascii():
    sys.stdout = io.TextIOWrapper(sys.stdout.detach(), "ascii")
    sys.stderr = io.TextIOWrapper(sys.stderr.detach(), "ascii", line_buffering=True)


def closed():
    """As Python finds them after `<&- >&- 2>&-`."""
    sys.stdin = sys.stdout = sys.stderr = None  # which closes what nobody else has
    for number in range(3):
        with contextlib.suppress(OSError):
            os.close(number)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_says_its_error_in_ascii_and_ends_without_streams(tmp_path, script):
    plain = Fork(script, SCRIPTS[script], tmp_path, in_ascii, cwd=tmp_path).wait()
    assert plain.code in (1, 2)
    assert SHOWN in " ".join(plain.err.split()) or SHOWN.replace("\\", "\\\\") in plain.err, plain.err
    assert Fork(script, SCRIPTS[script], tmp_path, closed, cwd=tmp_path).wait().code == plain.code


def test_a_folder_in_another_alphabet(tmp_path):
    """From images to features, whose progress and notes name it, with streams in ASCII."""
    for red, label in enumerate(("rot", "blau")):
        (tmp_path / "写真" / label).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (64, 64), (number, red, 0)).save(tmp_path / "写真" / label / f"{number}.png")
    words = ["--dataset", "写真/", *SHOT, "--clip-encoder", "demo-RN", "--image-augmentation", "none"]
    words += ["--indices_dir", "i", "--feature_dir", "f"]
    done = Fork("features.py", words, tmp_path, in_ascii, cwd=tmp_path).wait(check=0)
    assert r"demo-RN \u5199\u771f: 2 prompts" in done.out
    assert list((tmp_path / "f" / "demo-RN" / "写真").rglob("*.safetensors"))


@pytest.mark.usefixtures("short_grids")
def test_tables_in_ascii(tmp_path):
    for seed in (1, 2):
        write_cell(tmp_path, cell_of("dtd", 1, seed, "RN50-image_0-text_0-hand_crafted-flip_1", CROSS, LINEAR))
    words = ["--dataset", "dtd", "--train-shot", 1, "--seed", 1, 2, "--result_dir", tmp_path, "--eval_dir", tmp_path]
    done = Fork("eval.py", words, tmp_path, in_ascii).wait(check=0)
    assert "mean +- standard deviation" in done.out


def test_a_process_without_streams_and_in_the_locale_c(tmp_path):
    """As cron or a container starts it: files of the script must not get the numbers of streams."""
    command = (
        f"exec {sys.executable} few_shot_split.py --dataset dtd --train-shot 1 --seed 9 --indices_dir '{tmp_path}/é'"
    )
    c = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for redirected in ("<&- >&- 2>&-", "> /dev/full"):
        done = subprocess.run(
            ["bash", "-c", f"{command} {redirected}"], cwd=ROOT, env=os.environ | c, capture_output=True, timeout=60
        )
        full = redirected == "> /dev/full"
        assert (done.returncode, done.stderr) == (int(full), b"error: No space left on device\n" * full)
    assert (tmp_path / "é" / "dtd" / "shot_1-seed_9.json").is_file()


def test_what_the_machine_refuses_is_one_line(tmp_path):
    (tmp_path / "script.py").write_text("""\
import errno, os, sys
from engine import config

def main():
    config.parser("", "features.py").parse_args([])
    raise eval(sys.argv[-1])

config.run(main)
""")
    for error, said in (
        ("OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))", "no more processes or threads"),
        ('RuntimeError("can\'t start new thread")', "try --num-workers 0"),
        ("MemoryError()", "memory ran out; try a smaller --test-batch-size or --num-workers 0"),
        ("RecursionError('maximum recursion depth exceeded')", "nested too deeply"),
        ("PermissionError(13, 'Permission denied', 'a/b')", "error: a/b: Permission denied"),
    ):
        done = Fork(tmp_path / "script.py", [error], tmp_path).wait(check=1)
        assert done.err.startswith("error: ")
        assert said in done.err
        assert done.err.count("\n") == 1


def test_what_a_terminal_obeys_is_escaped():
    """But for line ends, tabs, the colours of check.py, and the return with which a progress bar begins."""
    below = io.BytesIO()
    shown = terminal._Printable(io.TextIOWrapper(below, "utf-8"))
    for text in ("\rbar  ", "\r", "a\rb\x1b[2J\x9b1m\x7f\n\t", "  \x1b[31mWRONG\x1b[0m \x1b[31mred"):
        assert shown.write(text) == len(text)
    shown.flush()
    expected = "\rbar  \ra\\rb\\x1b[2J\\x9b1m\\x7f\n\t  \x1b[31mWRONG\x1b[0m \\x1b[31mred"
    assert below.getvalue().decode() == expected


def test_ctrl_c_while_a_bar_is_made(monkeypatch):
    """Python would print a traceback about the half-made bar."""
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tqdm.tqdm._get_free_pos", interrupt)
    with pytest.raises(KeyboardInterrupt):
        terminal.bar(total=1, file=io.StringIO())
    gc.collect()
    assert not said
