"""Where things lie. Edit these by hand, or override one for a single command (--data_dir, --feature_dir, ...).

Relative paths start at the folder the command is typed in.
"""

DATA_DIR = "data"  # images as downloaded: see DATASETS.md for the tree
FEW_SHOT_DIR = "indices"  # few-shot splits; the published ones come with the project
FEATURE_DIR = "features"  # cached CLIP features
RESULT_DIR = "experiments"  # one record per training run
EVAL_DIR = "results"  # one table per method
AVG_DIR = "average_results"  # averages over datasets
REPORT_DIR = "reports"  # pages of report.py
ESC_RESULT_DIR = "imagenet_esc_results"  # runs of ImageNet-ESC
SUBMISSION_DIR = "submissions"  # jobs of submit.py: scripts, logs, states
