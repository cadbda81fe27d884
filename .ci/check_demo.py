"""Check the demo's results: the paper's claim holds, and a second run finds everything complete."""

import subprocess
import sys
from pathlib import Path

import pandas as pd

RESULTS = Path("average_results")
FEW_SHOTS = [1, 2, 4]


def main() -> None:
    uni, cross = (
        pd.read_csv(
            RESULTS / f"all_demo-RN_linear_hand_crafted_flip_1_{method}_wiseft_False" / "summary.csv", index_col="shots"
        )
        for method in ("uni_modal_random", "cross_modal_text")
    )
    zeroshot = cross["zeroshot"][1]
    if not 35 < zeroshot < 80:
        sys.exit(f"zero-shot accuracy {zeroshot} is not plausible for a few-shot problem")
    if not (cross["mean"][FEW_SHOTS] > uni["mean"][FEW_SHOTS]).all():
        sys.exit("cross-modal is not above uni-modal linear probing at 1, 2 and 4 shots")
    again = subprocess.run(["bash", "demo.sh"], capture_output=True, text=True, check=True).stdout
    if again.count("180 runs, 0 to train") != 2 or "0 of them to encode" not in again:
        sys.exit(f"a second run of demo.sh repeats completed work:\n{again}")
    print("the demo shows the paper's claim, and a second run skips it")


if __name__ == "__main__":
    main()
