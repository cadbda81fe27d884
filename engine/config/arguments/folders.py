"""Arguments for the folders of data and results."""

from __future__ import annotations

from engine.config import default
from engine.config.arguments.declare import (
    AUDIO_FEATURES,
    AVERAGE,
    CHECK,
    FEATURES,
    FEW_SHOT_SPLIT,
    IMAGENET_ESC,
    REPORT,
    TABLES,
    TABULATING,
    TRAINING,
    Argument,
)


def _folder(flag: str, folder: str, contents: str, *scripts: str) -> Argument:
    return Argument(flag, group="folders", scripts=scripts, default=folder, metavar="DIR", help=contents)


ARGUMENTS = [
    _folder(
        *("--data_dir", default.DATA_DIR, "datasets"),
        *(FEW_SHOT_SPLIT, FEATURES, IMAGENET_ESC, *TABULATING, REPORT, CHECK),
    ),
    _folder(
        *("--indices_dir", default.FEW_SHOT_DIR, "few-shot splits"),
        *(FEW_SHOT_SPLIT, FEATURES, *TRAINING, IMAGENET_ESC, *TABULATING, REPORT, CHECK),
    ),
    _folder(
        *("--feature_dir", default.FEATURE_DIR, "features"),
        *(FEATURES, *TRAINING, IMAGENET_ESC, *TABULATING, REPORT, CHECK),
    ),
    _folder(
        *("--feature_dir", default.FEATURE_DIR),
        f"features (default: {default.FEATURE_DIR} in the project's folder)",
        AUDIO_FEATURES,
    ),
    _folder("--result_dir", default.RESULT_DIR, "records of runs", *TRAINING, *TABULATING, TABLES, CHECK),
    _folder("--eval_dir", default.EVAL_DIR, "tables of eval.py", *TABULATING, AVERAGE),
    _folder("--esc_result_dir", default.ESC_RESULT_DIR, "runs of imagenet_esc.py", IMAGENET_ESC, TABLES),
    _folder("--avg_dir", default.AVG_DIR, "averages and tables of the paper", AVERAGE, IMAGENET_ESC, TABLES),
    _folder("--report_dir", default.REPORT_DIR, "reports", REPORT),
]
