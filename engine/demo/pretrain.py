"""Train a tiny CLIP on the demo world: contrastive training from scratch on pictures and captions from world.py.

    python -m engine.demo.pretrain --model demo-RN
    python -m engine.demo.pretrain --model demo-ViT

Each writes engine/demo/models/<model>.safetensors (open_clip's names, float16 to stay small; see README.md there) and
prints the zero-shot accuracy on unseen kinds, without and with the demo dataset's domain gap.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import open_clip
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import released, terminal
from engine.demo import world
from engine.files import write_atomically

MODEL_DIR = Path(__file__).parent / "models"
MODELS = ("demo-RN", "demo-ViT")

SEED = 1
PICTURES = 24_000
CAPTIONS = 4  # per picture
STEPS = {"demo-RN": 1000, "demo-ViT": 1200}
BATCH_SIZE = 128
LEARNING_RATE = 1e-3
WARM_UP = 100
WEIGHT_DECAY = 0.05
MAX_LOGIT_SCALE = math.log(100)  # CLIP, section 2.5

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, PROTOCOL.md section 3
STD = (0.26862954, 0.26130258, 0.27577711)


def create_model(name: str) -> nn.Module:
    """Return a newly initialised open_clip model from engine/demo/models/<name>.json."""
    open_clip.add_model_config(MODEL_DIR)
    return open_clip.create_model(name)


def make_pairs(count: int, captions: int, seed: int, context_length: int) -> tuple[Tensor, Tensor]:
    """Draw `count` pictures, uint8 (count, 3, H, W), and tokens (count, captions, L), cut to the longest caption."""
    tokenizer = open_clip.SimpleTokenizer(context_length=context_length)
    pictures = torch.empty(count, 3, world.IMAGE_SIZE, world.IMAGE_SIZE, dtype=torch.uint8)
    texts = []
    for index in terminal.bar(range(count), desc="drawing", unit="picture"):
        rng = world.generator(seed, "pretraining", index)
        scene = world.pretraining_scene(rng)
        texts += [world.caption(scene, rng) for _ in range(captions)]
        pictures[index] = to_tensor(world.draw(scene, world.PRETRAINING, rng))
    tokens = torch.cat([tokenizer(texts[start : start + 4096]) for start in range(0, len(texts), 4096)])
    tokens = tokens[:, : int((tokens != 0).sum(dim=1).max())]
    return pictures, tokens.view(count, captions, -1)


def train(
    model: nn.Module, pictures: Tensor, tokens: Tensor, *, steps: int, batch_size: int, lr: float, seed: int
) -> Iterator[float]:
    """Train in place with the symmetric InfoNCE loss; yield the loss of each step."""
    model.train()
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=lr, betas=(0.9, 0.98), eps=1e-6)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    rng = torch.Generator().manual_seed(seed)
    for _, rows in zip(range(steps), batches(len(pictures), batch_size, rng), strict=False):
        chosen = torch.randint(tokens.shape[1], (len(rows),), generator=rng)
        images = F.normalize(model.encode_image(normalize_pixels(pictures[rows])), dim=-1)
        texts = F.normalize(encode_text_cut(model, tokens[rows, chosen]), dim=-1)
        logits = model.logit_scale.exp() * images @ texts.T
        target = torch.arange(len(rows))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        yield loss.item()
    model.eval()


def encode_text_cut(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return `model.encode_text` (B, D) of tokens (B, L), cut below the context length but not before a text's end.

    Attention is causal and the feature is taken at the end of the text, so the tokens after it change nothing.
    """
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ model.text_projection


def save(model: nn.Module, tokens: Tensor, path: Path) -> None:
    """Write the model's state as float16.

    The embeddings of words that no caption used are still random, and are written as zeros. An unknown word in a prompt
    then adds nothing, and the file compresses.
    """
    state = {name: value.detach().contiguous().clone() for name, value in model.state_dict().items()}
    unused = torch.ones(len(state["token_embedding.weight"]), dtype=torch.bool)
    unused[tokens.unique()] = False
    state["token_embedding.weight"][unused] = 0
    state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    write_atomically(path, lambda temporary: safetensors.torch.save_file(state, temporary))


@torch.inference_mode()
def zero_shot_accuracy(model: nn.Module, style: world.Style, *, per_class: int, seed: int) -> float:
    """Return the accuracy in percent of `a photo of a {}.` on new pictures of the held-out kinds in `style`."""
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    prompts = tokenizer([f"a photo of a {kind.name}." for kind in world.HELD_OUT])
    weights = F.normalize(model.encode_text(prompts), dim=-1)
    right = 0
    for label, kind in enumerate(world.HELD_OUT):
        rngs = [world.generator(seed, f"evaluation {kind.name}", index) for index in range(per_class)]
        pictures = torch.stack([to_tensor(world.draw(world.random_scene(kind, rng), style, rng)) for rng in rngs])
        right += int(((model.encode_image(normalize_pixels(pictures)) @ weights.T).argmax(dim=-1) == label).sum())
    return 100 * right / (per_class * len(world.HELD_OUT))


def normalize_pixels(pictures: Tensor) -> Tensor:
    """Convert uint8 pictures (B, 3, H, W) to the encoder's input."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return ((pictures.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def to_tensor(picture) -> Tensor:
    """Return an RGB PIL image as uint8 (3, H, W)."""
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(*picture.size, 3).permute(2, 0, 1)


def batches(count: int, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of row numbers in endless shuffled passes, without each pass's incomplete last batch."""
    while True:
        order = torch.randperm(count, generator=rng)
        yield from order[: count // batch_size * batch_size].split(batch_size)


def parameter_groups(model: nn.Module) -> list[dict]:
    """Return AdamW groups: weight decay for matrices and kernels, none for gains, biases and the temperature."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]


def learning_rate(step: int, steps: int) -> float:
    """Return the learning rate as a fraction of the full rate: linear warm-up, then cosine to zero."""
    warm_up = min(WARM_UP, steps // 5 + 1)
    if step < warm_up:
        return (step + 1) / warm_up
    return (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}")
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="folder of the weights (default: %(default)s)")
    args = parser.parse_args()

    start = time.perf_counter()
    torch.manual_seed(args.seed)
    model = create_model(args.model)
    pictures, tokens = make_pairs(args.pictures, CAPTIONS, args.seed, model.context_length)
    steps = args.steps or STEPS[args.model]
    losses = train(model, pictures, tokens, steps=steps, batch_size=BATCH_SIZE, lr=LEARNING_RATE, seed=args.seed)
    bar = terminal.bar(losses, total=steps, desc=args.model, unit="step")
    for loss in bar:
        bar.set_postfix(loss=f"{loss:.3f}")
    path = args.out / f"{args.model}.safetensors"
    save(model, tokens, path)
    released.record_demo_digest(path)
    terminal.say(f"{path}: {path.stat().st_size / 1e6:.1f} MB in {(time.perf_counter() - start) / 60:.1f} minutes")
    for name, style in {"no domain gap": world.PRETRAINING, **world.STYLES}.items():
        accuracy = zero_shot_accuracy(model, style, per_class=50, seed=args.seed)
        terminal.say(f"zero-shot accuracy over {len(world.HELD_OUT)} unseen kinds, {name}: {accuracy:.1f} %")


if __name__ == "__main__":
    from engine import config  # only scripts import config

    config.run(main)
