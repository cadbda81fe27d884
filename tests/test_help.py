"""The --help of every script: readable at 80 columns, with examples and groups, and complete."""

import re
from pathlib import Path

import pytest

from engine import config
from engine.config.arguments import ARGUMENTS, arguments_of
from forks import run_fork

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.py"), ROOT / "audioclip/audio_features.py")
)
GROUPS = ["classifier", "data", "encoder", "inputs", "output", "run", "cluster", "folders"]
"""In the order of --help; a script has those that its arguments need."""


def test_every_argument_belongs_to_scripts_that_exist():
    names = {Path(script).name for script in SCRIPTS}
    assert {script for argument in ARGUMENTS for script in argument.scripts} == names
    assert {argument.group for argument in ARGUMENTS} == set(GROUPS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_at_80_columns(script, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run_fork(script, "--help", folder=tmp_path, cwd=tmp_path, check=0).stdout.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert lines[0].startswith(f"usage: {Path(script).name} ")
    assert lines[1] == ""
    assert re.fullmatch(r"[A-Z].*\.", lines[2]), "a line about what the script does"
    first_argument = lines.index("options:")
    examples = [
        line for line in lines[:first_argument] if re.match(rf"    (cd audioclip && )?python {Path(script).name}", line)
    ]
    assert examples
    groups = [line.removesuffix(":") for line in lines[first_argument + 1 :] if re.fullmatch(r"\w+:", line)]
    assert groups == [group for group in GROUPS if group in groups]
    assert len(groups) >= 2


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_every_argument_once_with_its_choices_and_default(script, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = run_fork(script, "--help", folder=tmp_path, cwd=tmp_path, check=0).stdout
    options = text[text.index("\noptions:\n") :]
    entries = re.split(r"\n(?=  [-\w])", re.sub(r"\n\n\w+:(?=\n)", "", options))[2:]  # after -h
    arguments = arguments_of(Path(script).name)
    assert len(entries) == len(arguments)
    for argument in arguments:
        settings = argument.settings(Path(script).name)
        name = argument.flags[0] if argument.flags[0].startswith("-") else settings["metavar"]
        (entry,) = [entry for entry in entries if re.match(rf"  {re.escape(name)}(?![\w-])", entry)]
        assert all(flag in entry for flag in argument.flags[1:])
        words = " ".join(entry.split())
        assert all(re.search(rf"\b{choice}\b", words) for choice in settings.get("choices", [])), entry
        has_default = settings.get("default") not in (None, "") or "(default: " in settings["help"]
        assert words.count("(default: ") == has_default, entry


@pytest.mark.parametrize("script", SCRIPTS)
def test_examples_in_help_are_understood(script):
    name, text = Path(script).name, (ROOT / script).read_text(encoding="utf-8").split('"""')[1]
    examples = re.findall(rf"^ *(?:cd audioclip && )?python {name} ?(.*)$", text.replace("\\\\\n", ""), re.MULTILINE)
    assert examples
    for example in examples:
        config.parser("", name).parse_args(example.split(" >")[0].split())  # exits if it cannot
