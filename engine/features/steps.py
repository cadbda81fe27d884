"""The steps of features.py after parsing: extract and check features, with progress on the terminal."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine import datasets, files, terminal
from engine.clip.load import Encoder, load_encoder
from engine.datasets import ImageDataset
from engine.datasets.checks import list_preview, pluralize
from engine.datasets.few_shot import FewShotSplit
from engine.errors import UserError
from engine.features.classes import write_classes
from engine.features.extract import CorruptImages, extract
from engine.features.listing import write_listing
from engine.features.mining import mine_splits
from engine.features.parts import divide_extraction
from engine.features.planning import DatasetPlan, Request, plan_dataset, require_room
from engine.features.store import FeaturePaths
from engine.features.texts import TextPlan, extract_texts
from engine.features.verify import changed_images, check, stored_files
from engine.features.zeroshot import measure
from engine.methods import DEFAULT
from engine.shards import Shard


def load(name: str, *arguments: Any) -> Encoder:
    """Load an encoder with `load_encoder`, and print its assumptions about weights without a tag."""
    encoder = load_encoder(name, *arguments)
    if encoder.assumed:
        terminal.say(f"note: {encoder.assumed}")
    return encoder


def extract_all(
    encoders: list[str],
    wanted: list[tuple[ImageDataset, list[FewShotSplit]]],
    load_dataset: Callable[[str], tuple[ImageDataset, list[FewShotSplit]]],
    request: Request,
    paths_of: Callable[[str, str], FeaturePaths],
    load_one: Callable[[str], Encoder],
    *,
    feature_dir: str,
    dry_run: bool,
    shard: Shard | None,
    **how: int,
) -> None:
    """Plan every dataset with its splits for every encoder, print the plans, and extract the missing features.

    `paths_of` takes the names of an encoder and a dataset, `load_one` the name of an encoder; one encoder is in memory
    at a time. `how` has `batch_size` and `workers`. `dry_run` prints all needs and extracts nothing. `shard` extracts
    a part of the features of each encoder; `wanted` may be outlines for it, and `load_dataset` reads the datasets of
    the part. Raises UserError if the disk has too little space, CorruptImages after trying everything.
    """
    plans, encoder = [], None
    for name in encoders:
        del encoder  # before the next one is loaded
        encoder = load_one(name)
        parts = dict.fromkeys(range(len(wanted)))
        if shard:
            parts, title = divide_extraction(shard, wanted, request, encoder, how["batch_size"])
            terminal.say(title)
        for index, part in parts.items():
            benchmark, splits = load_dataset(wanted[index][0].name)
            plans.append(plan_dataset(benchmark, splits, request, paths_of(name, benchmark.name), encoder, part))
            terminal.say("\n  ".join(map(str, [plans[-1], *(plans[-1].needs if dry_run else [])])))
    room = require_room(plans, feature_dir)
    if dry_run:
        terminal.say(room)
        return
    todo = [plan for plan in plans if not plan.is_done]
    if todo:
        files.require_writable(Path(feature_dir))
    corrupt: list[str] = []
    for name, of_encoder in itertools.groupby(todo, key=lambda plan: plan.encoder):
        if name != encoder.name:
            del encoder
            encoder = load_one(name)
        for plan in of_encoder:
            corrupt += make(plan, encoder, **how)
    if corrupt:
        raise CorruptImages(corrupt)


def make(plan: DatasetPlan, encoder: Encoder, *, batch_size: int, workers: int) -> list[str]:
    """Extract the missing features of a plan and print its zero-shot accuracy; return a line per corrupt image."""
    prompts, images, mining = plan.prompts_to_encode, plan.images_to_encode, plan.splits_to_mine
    with terminal.bar(total=prompts, desc=f"{plan.title} prompts", unit="prompt", disable=not prompts) as bar:
        for texts in plan.texts:
            for remark in _remarks(texts, encoder.name):
                bar.write(remark)
            extract_texts(texts, encoder, bar.update)
    write_classes(plan.paths, plan.classes)
    write_listing(plan.paths, plan.listing)  # after the prompts, which depend on its class names
    with terminal.bar(total=images, desc=f"{plan.title} images", unit="image", disable=not images) as bar:
        corrupt: list[str] = []
        try:
            uniform = extract(plan.images, encoder, batch_size=batch_size, workers=workers, progress=bar.update)
        except CorruptImages as error:
            corrupt, uniform = error.lines, error.uniform
    if uniform:
        verb = "is" if len(uniform) == 1 else "are"
        terminal.warn(
            f"note: {pluralize(len(uniform), 'image')} {verb} of one colour: {list_preview(uniform)}; often"
            " a sign of files that are decoded wrongly"
        )
    if corrupt:
        return corrupt
    with terminal.bar(total=mining, desc=f"{plan.title} mining", unit="split", disable=not mining) as bar:
        if plan.mining_splits:
            mine_splits(encoder, plan.paths, plan.mining_splits, batch_size=batch_size, progress=bar.update)
    _print_zeroshot(plan)
    return []


def _remarks(texts: TextPlan, encoder: str) -> list[str]:
    """Return warnings and notes about prompts, to read before training on their features."""
    remarks = [f"note: {note}" for note in texts.notes]
    if cut := texts.truncated:
        verb = "is" if len(cut) == 1 else "are"
        too_long = f"{pluralize(len(cut), 'prompt')} {verb} too long for {encoder} and truncated"
        remarks.append(f"warning: {too_long}, for example '{cut[0]}'")
    if alike := texts.alike:
        shown = list_preview((f"'{one}' and '{other}'" for one, other in alike), len(alike))
        remarks.append(
            f"note: in {pluralize(len(alike), 'pair')} of classes, prompts have the same tokens for {encoder},"
            f" which cannot distinguish them: {shown}"
        )
    count, least = len(texts.prompts), min(DEFAULT.grid.axes["batch_size"]) // 2 + 1
    of_classes = Counter(texts.labels).values()
    if len(of_classes) * max(of_classes) < least:  # training repeats prompts of classes that have fewer
        remarks.append(
            f"note: {pluralize(count, 'prompt')}, but cross-modal training needs {least} or more: add templates with"
            " --templates FILE, or use --text-augmentation template_mining"
        )
    return remarks


def _print_zeroshot(plan: DatasetPlan) -> None:
    """Print zero-shot accuracies on validation images, which reveal mistakes before hours of training."""
    for augmentation, found in measure(plan):
        terminal.say(f"{plan.title} {augmentation}: {found}")
        if warning := found.warning(f"{plan.title} {augmentation}"):
            terminal.warn(warning)


def verify_all(stores: dict[str, list[FeaturePaths]], data_dir: str, indices_dir: str, repair: bool) -> int:
    """Check all features at `stores`, by dataset, and images if they are installed; return the number of bad files.

    Raises UserError if there are no features at all.
    """
    stored = stored_files(itertools.chain(*stores.values()))
    if not stored:
        encoders = dict.fromkeys(paths.folder.parent for paths in itertools.chain(*stores.values()))
        named = ", ".join(folder.name for folder in encoders)
        raise UserError(
            f"{next(iter(encoders)).parent} has no features of {named} for {', '.join(stores)}; run features.py without"
            " --verify and --repair first"
        )
    bad = verify(stored, repair)
    for dataset, of_dataset in stores.items():
        if benchmark := datasets.find(dataset, data_dir, indices_dir):  # or check the features alone
            bad += sum(verify_images(paths, benchmark, indices_dir, repair) for paths in of_dataset)
    return bad


def verify(paths: list[Path], repair: bool) -> int:
    """Check feature files and print bad ones, which `repair` removes; return the number of bad files."""
    bad = unopened = undigested = 0
    with terminal.bar(total=sum(path.stat().st_size for path in paths), unit="B", unit_scale=True) as bar:
        for file in check(paths, bar.update):
            undigested += not file.has_digest
            if file.duplicates:
                bar.write(f"note: {file.path} has {file.duplicates} rows that other shards have too; this is harmless")
            if file.fault:
                bad += file.can_be_opened
                unopened += not file.can_be_opened
                bar.write(f"{file.path} {file.fault}")
            if file.fault and file.can_be_opened and repair:
                file.path.unlink(missing_ok=True)
    action = "removed; run features.py to extract them again" if repair else "--repair removes them"
    terminal.say(f"{pluralize(len(paths), 'file')}, {bad} of them bad" + f"; {action}" * (bad > 0))
    if unopened:
        terminal.say(f"{pluralize(unopened, 'file')} cannot be opened, but may be sound: --repair does not remove them")
    if undigested:
        terminal.say(
            f"{pluralize(undigested, 'file')} of an older version without digests: changes to values go undetected"
        )
    return bad + unopened


def verify_images(paths: FeaturePaths, benchmark: ImageDataset, indices_dir: str, repair: bool) -> int:
    """Print the images whose content changed since their features were extracted; return their number.

    `repair` removes their features, so that features.py extracts them again.
    """
    changed = changed_images(paths, benchmark)
    for impath in changed:
        terminal.say(f"{benchmark.image_dir / impath} changed since its features were extracted")
    if repair:
        for path in {path for shards in changed.values() for path in shards}:
            path.unlink(missing_ok=True)
        if benchmark.files and changed:
            datasets.forget(benchmark, list(changed), indices_dir)
    return len(changed)
