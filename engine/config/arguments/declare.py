"""An argument of the command line: one declaration, used by every script that takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FEW_SHOT_SPLIT, FEATURES = "few_shot_split.py", "features.py"
TRAIN, DOMAIN_SHIFT, IMAGENET_ESC = "train.py", "domain_shift.py", "imagenet_esc.py"
EVAL, EVAL_DOMAIN_SHIFT, AVERAGE, TABLES = "eval.py", "eval_domain_shift.py", "average.py", "tables.py"
PREDICT, REPORT, CHECK, AUDIO_FEATURES = "predict.py", "report.py", "check.py", "audio_features.py"
SUBMIT = "submit.py"
TRAINING, TABULATING = (TRAIN, DOMAIN_SHIFT), (EVAL, EVAL_DOMAIN_SHIFT)

NAMES, NUMBERS = {"nargs": "+", "metavar": "NAME"}, {"nargs": "+", "metavar": "N"}
"""Settings of arguments that take several values."""


class Argument:
    """An argument: its flags, its group in `--help`, the scripts that take it, and its settings for argparse.

    `overrides` replaces settings in single scripts, for example where the argument takes several values. `--help`
    appends the default to the help text unless the text states it. Help texts name all choices.
    """

    def __init__(
        self,
        *flags: str,
        group: str,
        scripts: tuple[str, ...],
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        **settings: Any,
    ):
        self.flags, self.group, self.scripts = flags, group, scripts
        self._overrides = overrides or {}
        self._settings = {"metavar": "NAME"} | settings if "choices" in settings else settings
        self.name: str = settings.get("dest", flags[0].lstrip("-").replace("-", "_"))
        """The attribute of the parsed arguments that holds its value."""

    def settings(self, script: str) -> dict[str, Any]:
        """Return the keyword arguments for `ArgumentParser.add_argument` in a script."""
        return self._settings | dict(self._overrides.get(script, {}))
