"""Train the demo's audio encoder for the embedding space of demo-RN, on kinds that are not in the demo.

    python -m engine.demo.pretrain_audio

Like AudioCLIP, it is trained contrastively against a frozen CLIP: a sound matches the picture and the caption of its
scene, and no others in the batch. Scenes are from the CLIP's pre-training, which never shows a class of the demo
(`world.pretraining_scene`), with pictures and sounds in the pre-training style. Writes
engine/demo/models/demo-audio.safetensors (float16) and prints the zero-shot accuracy on unseen kinds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import open_clip
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine import released, terminal
from engine.clip.load import load_encoder
from engine.demo import pretrain, sounds, world
from engine.demo.audio_encoder import NAME, PATH, AudioEncoder
from engine.files import write_atomically

CLIP = "demo-RN"
SEED = 1
SCENES = 6000
STEPS = 800
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
SCALE = 18.5  # logit scale of demo-RN, see models/README.md


def make_triples(count: int, seed: int, clip) -> tuple[Tensor, Tensor, Tensor]:
    """Return `count` sounds [n, 1, L], and L2-normalised features [n, D] of a picture and a caption of each scene.

    `clip` is a CLIP in eval mode.
    """
    samples = torch.empty(count, 1, sounds.LENGTH)
    images, captions = [], []
    tokenizer = open_clip.SimpleTokenizer(context_length=clip.context_length)
    pictures = torch.empty(128, 3, world.IMAGE_SIZE, world.IMAGE_SIZE, dtype=torch.uint8)
    with torch.inference_mode():
        for index in terminal.bar(range(count), desc="drawing and playing", unit="scene"):
            rng = world.generator(seed, "pretraining of ears", index)
            scene = world.pretraining_scene(rng)
            samples[index, 0] = torch.from_numpy(sounds.sound(scene, sounds.PRETRAINING, rng))
            captions.append(world.caption(scene, rng))
            pictures[index % 128] = pretrain.to_tensor(world.draw(scene, world.PRETRAINING, rng))
            if index % 128 == 127 or index == count - 1:
                seen = pretrain.normalize_pixels(pictures[: index % 128 + 1])
                images.append(F.normalize(clip.encode_image(seen)))
        texts = [F.normalize(clip.encode_text(tokenizer(captions[k : k + 256]))) for k in range(0, count, 256)]
    return samples, torch.cat(images), torch.cat(texts)


def train(
    encoder: nn.Module, samples: Tensor, images: Tensor, texts: Tensor, *, steps: int, batch_size: int, seed: int
) -> Iterator[float]:
    """Train in place with the symmetric InfoNCE losses of sounds with pictures and captions; yield their mean."""
    encoder.train()
    optimizer = torch.optim.AdamW(pretrain.parameter_groups(encoder), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: pretrain.learning_rate(step, steps))
    rng = torch.Generator().manual_seed(seed)
    target = torch.arange(batch_size)
    for _, rows in zip(range(steps), pretrain.batches(len(samples), batch_size, rng), strict=False):
        features = encoder(samples[rows])
        loss = torch.zeros(())
        for others in (images[rows], texts[rows]):
            logits = SCALE * features @ others.T
            loss = loss + (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 4
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        yield loss.item()
    encoder.eval()


def save(encoder: nn.Module, path: Path) -> None:
    """Write the encoder's state, as float16."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in encoder.state_dict().items()}
    write_atomically(path, lambda temporary: safetensors.torch.save_file(state, temporary))


@torch.inference_mode()
def zero_shot_accuracy(encoder: nn.Module, clip, style: sounds.Style, *, per_class: int, seed: int) -> float:
    """Return the accuracy in percent of bare class names on new sounds of the held-out kinds in `style`."""
    tokenizer = open_clip.SimpleTokenizer(context_length=clip.context_length)
    weights = F.normalize(clip.encode_text(tokenizer([kind.name for kind in world.HELD_OUT])))
    right = 0
    for label, kind in enumerate(world.HELD_OUT):
        rngs = [world.generator(seed, f"evaluation of ears {kind.name}", index) for index in range(per_class)]
        samples = [torch.from_numpy(sounds.sound(world.random_scene(kind, rng), style, rng)) for rng in rngs]
        right += int(((encoder(torch.stack(samples)[:, None]) @ weights.T).argmax(1) == label).sum())
    return 100 * right / (per_class * len(world.HELD_OUT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--out", type=Path, default=PATH, help="file of the weights (default: %(default)s)")
    args = parser.parse_args()

    start = time.perf_counter()
    torch.manual_seed(args.seed)
    encoder, clip = AudioEncoder(), load_encoder(CLIP).model
    triples = make_triples(args.scenes, args.seed, clip)
    losses = train(encoder, *triples, steps=args.steps, batch_size=min(BATCH_SIZE, args.scenes), seed=args.seed)
    bar = terminal.bar(losses, total=args.steps, desc=NAME, unit="step")
    for loss in bar:
        bar.set_postfix(loss=f"{loss:.3f}")
    save(encoder, args.out)
    released.record_demo_digest(args.out)
    terminal.say(
        f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB in {(time.perf_counter() - start) / 60:.1f} minutes"
    )
    for name, style in {"no domain gap": sounds.PRETRAINING, "demo": sounds.DEMO}.items():
        accuracy = zero_shot_accuracy(encoder, clip, style, per_class=20, seed=args.seed)
        terminal.say(f"zero-shot accuracy over {len(world.HELD_OUT)} unseen kinds, {name}: {accuracy:.1f} %")


if __name__ == "__main__":
    from engine import config  # only scripts import config

    config.run(main)
