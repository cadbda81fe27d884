"""The steps of features.py once it knows what is asked for: make and check features, with progress on the terminal."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine import datasets, files, terminal
from engine.clip.load import Encoder, load_encoder
from engine.datasets import Benchmark
from engine.datasets.checks import NotInstalled, counted, first
from engine.datasets.few_shot import FewShotSplit
from engine.errors import UserError
from engine.features.classes import write_classes
from engine.features.extract import CorruptImages, extract
from engine.features.listing import write_listing
from engine.features.mining import mine_splits
from engine.features.planning import DatasetPlan, Request, plan_dataset, require_room
from engine.features.store import FeaturePaths
from engine.features.texts import TextPlan, extract_texts
from engine.features.verify import changed_images, check, stored_files
from engine.features.zeroshot import measure
from engine.methods import GRIDS


def load(name: str, *settings: Any) -> Encoder:
    """Load an encoder as `load_encoder` does, and print what is assumed of it."""
    encoder = load_encoder(name, *settings)
    if encoder.assumed:
        terminal.say(f"note: {encoder.assumed}")
    return encoder


def extract_all(
    encoders: list[str],
    wanted: list[tuple[Benchmark, list[FewShotSplit]]],
    request: Request,
    paths_of: Callable[[str, str], FeaturePaths],
    load_one: Callable[[str], Encoder],
    *,
    feature_dir: str,
    dry_run: bool,
    **how: int,
) -> None:
    """Plan every dataset with its splits under every encoder, print the plans, and make what is missing.

    `paths_of` takes the names of an encoder and a dataset, `load_one` the name of an encoder; one is in memory at a
    time. `how` are the batch size and the number of decoding processes. With `dry_run` it prints all needs, and makes
    nothing. Raises UserError without room on the disk, CorruptImages once everything was tried.
    """
    plans, encoder = [], None
    for name in encoders:
        del encoder  # before the next one is loaded
        encoder = load_one(name)
        for benchmark, splits in wanted:
            plans.append(plan_dataset(benchmark, splits, request, paths_of(name, benchmark.name), encoder))
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
    """Make what a plan says is missing, and say how it does; a line for each corrupt image."""
    with terminal.bar(total=plan.prompts, desc=f"{plan.title} prompts", unit="prompt", disable=not plan.prompts) as bar:
        for texts in plan.texts:
            for remark in _remarks(texts, encoder.name):
                bar.write(remark)
            extract_texts(texts, encoder, bar.update)
    write_classes(plan.paths, plan.classes)
    write_listing(plan.paths, plan.listing)  # after prompts, which are made anew where it had other class names
    with terminal.bar(
        total=plan.images_to_encode, desc=f"{plan.title} images", unit="image", disable=not plan.images_to_encode
    ) as bar:
        corrupt: list[str] = []
        try:
            uniform = extract(plan.images, encoder, batch_size=batch_size, workers=workers, progress=bar.update)
        except CorruptImages as error:
            corrupt, uniform = error.lines, error.uniform
    if uniform:
        verb = "is" if len(uniform) == 1 else "are"
        terminal.warn(
            f"note: {counted(len(uniform), 'image')} {verb} of one colour: {first(uniform, len(uniform))}; a common"
            " sign of files that are read wrongly"
        )
    if corrupt:
        return corrupt
    with terminal.bar(total=plan.to_mine, desc=f"{plan.title} mining", unit="split", disable=not plan.to_mine) as bar:
        if plan.mined:
            mine_splits(encoder, plan.paths, plan.mined, batch_size=batch_size, progress=bar.update)
    _say_zeroshot(plan)
    return []


def _remarks(texts: TextPlan, encoder: str) -> list[str]:
    """What a person should know of prompts before their features are trained on."""
    remarks = []
    if cut := texts.truncated:
        remarks.append(f"warning: {len(cut)} prompts are too long for {encoder} and lose their end, such as '{cut[0]}'")
    if alike := texts.alike:
        shown = first((f"'{one}' and '{other}'" for one, other in alike), len(alike))
        remarks.append(
            f"note: in {counted(len(alike), 'pair')} of classes, prompts are the same tokens for {encoder},"
            f" which cannot tell them apart: {shown}"
        )
    count, least = len(texts.prompts), min(grid.fewest_prompts for grid in GRIDS.values())
    if count < least:
        remarks.append(
            f"note: {counted(count, 'prompt')} where cross-modal training takes {least} or more: name others with"
            " --templates FILE, or --text-augmentation template_mining"
        )
    return remarks


def _say_zeroshot(plan: DatasetPlan) -> None:
    """The zero-shot accuracy of what a plan made, on its validation images: days before training would show it."""
    for augmentation, found in measure(plan):
        terminal.say(f"{plan.title} {augmentation}: {found}")
        if warning := found.warning(f"{plan.title} {augmentation}"):
            terminal.warn(warning)


def verify_all(stores: dict[str, list[FeaturePaths]], data_dir: str, repair: bool) -> int:
    """Check all features at `stores`, by dataset, and their images where these are there; return how many are bad.

    Raises UserError for no features at all.
    """
    checked = stored_files(itertools.chain(*stores.values()))
    if not checked:
        encoders = dict.fromkeys(paths.folder.parent for paths in itertools.chain(*stores.values()))
        named = ", ".join(folder.name for folder in encoders)
        raise UserError(f"{next(iter(encoders)).parent} has no features of {named} for {', '.join(stores)}")
    bad = verify(checked, repair)
    for dataset, of_dataset in stores.items():
        with suppress(NotInstalled):  # features can be checked without their images
            benchmark = datasets.load(dataset, data_dir, check_images=False, write=False)
            bad += sum(verify_images(paths, benchmark, repair) for paths in of_dataset)
    return bad


def verify(paths: list[Path], repair: bool) -> int:
    """Check files of features, name those that are bad, and remove the damaged ones with `repair`; how many are bad."""
    bad = unopened = undigested = 0
    with terminal.bar(total=sum(path.stat().st_size for path in paths), unit="B", unit_scale=True) as bar:
        for file in check(paths, bar.update):
            undigested += not file.has_digest
            if file.twice:
                bar.write(f"note: {file.path} has {file.twice} rows that other shards have too, which harms nothing")
            if file.fault:
                bad += file.can_be_opened
                unopened += not file.can_be_opened
                bar.write(f"{file.path} {file.fault}")
            if file.fault and file.can_be_opened and repair:
                file.path.unlink(missing_ok=True)
    what = "removed, and features.py makes them anew" if repair else "which --repair removes"
    terminal.say(f"{counted(len(paths), 'file')}, {bad} of them bad" + f", {what}" * (bad > 0))
    if unopened:
        terminal.say(f"{counted(unopened, 'file')} that cannot be opened, and may be sound: --repair leaves them alone")
    if undigested:
        terminal.say(
            f"{counted(undigested, 'file')} from before there were digests: whether they are as written is not known"
        )
    return bad + unopened


def verify_images(paths: FeaturePaths, benchmark: Benchmark, repair: bool) -> int:
    """Compare the content of images with what their features were made of, and name those that changed; how many.

    With `repair` features.py makes their features anew.
    """
    changed = changed_images(paths, benchmark)
    for impath in changed:
        terminal.say(f"{benchmark.image_dir / impath} is not the image that its features were made of")
    if repair:
        for path in {path for shards in changed.values() for path in shards}:
            path.unlink(missing_ok=True)
        if benchmark.files and changed:
            datasets.forget(benchmark, list(changed))
    return len(changed)
