"""Speed of a training step of prompting, beside the text tower's own forward and backward pass.

    python bench/prompting.py
    python bench/prompting.py --classes 100 --rounds 9 --threads 2

With random weights of CLIP's size (512 wide, 12 layers), one run, batches of 32 images, 16 context vectors. `tower` is
the forward and backward pass of all prompts, cut to the longest, through the tower's blocks, to the gradient of their
embedded tokens. `step` is a step of training, `chunks` one with a quarter of the classes at a time. Medians of
interleaved rounds, in ms, with the ratio to `tower`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import open_clip  # noqa: E402
import torch  # noqa: E402
from open_clip.model import CLIP  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from engine.clip.prompting import PromptEncoder  # noqa: E402
from engine.methods.prompting import CONTEXT, Prompting  # noqa: E402

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
VISION = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 32}
DIMENSION, BATCH = 512, 32
NAMES = ("cat", "red fox", "bird of paradise", "1994 station wagon", "annual crop land")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=47)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = CLIP(embed_dim=DIMENSION, vision_cfg=VISION, text_cfg=TEXT).eval().requires_grad_(False)
    tokenizer = open_clip.SimpleTokenizer()
    encoder = SimpleNamespace(
        name="random", model=model, tokenizer=tokenizer, tokenize=tokenizer, truncated=lambda *_: []
    )
    names = [NAMES[k % len(NAMES)] for k in range(args.classes)]
    prompts = PromptEncoder(encoder, names, CONTEXT)
    task = SimpleNamespace(name="bench", device="cpu", scale=100.0)
    features, labels = F.normalize(torch.randn(BATCH, DIMENSION)), torch.randint(args.classes, (BATCH,))

    def tower() -> None:
        before = torch.zeros(args.classes, CONTEXT + 1, prompts.width)
        tokens = torch.cat([before, prompts.rest], 1).requires_grad_()
        torch.autograd.grad(prompts.tower(tokens, prompts.positions).sum(), tokens)

    def step(at_once: int | None = None) -> None:
        module = Prompting(task, prompts, at_once)
        optimizer = torch.optim.SGD(module.parameters(), lr=2e-3, momentum=0.9, weight_decay=5e-4)
        F.cross_entropy(module((features,)), labels).backward()
        optimizer.step()

    parts = {"tower": tower, "step": step, "chunks": lambda: step(-(-args.classes // 4))}
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(args.rounds):
        for name, part in parts.items():
            began = time.perf_counter()
            part()
            taken[name].append(1000 * (time.perf_counter() - began))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    print(f"{args.classes} classes, prompts of {CONTEXT + 1 + prompts.rest.shape[1]} tokens, threads {args.threads}")
    for name, median in medians.items():
        print(f"{name:8} {median:9.1f} ms {median / medians['tower']:6.2f}")


if __name__ == "__main__":
    main()
