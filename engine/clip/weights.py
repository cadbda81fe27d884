"""The weights of an encoder: where they are, what goes with them, and how to get them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import open_clip
from huggingface_hub.constants import HF_HUB_CACHE
from open_clip.pretrained import download_pretrained, get_pretrained_cfg

from engine.clip import names
from engine.clip.preprocessing import preprocessing
from engine.errors import UserError
from engine.preprocessing import Preprocessing

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""What open_clip calls weights on the hub where a tag names no file, the preferred one first."""
OPENAI_CACHE = Path("~/.cache/clip")
"""Where OpenAI's own package keeps its archives (RN50.pt, ...)."""
DEMO_MODELS = Path(__file__).parents[1] / "demo" / "models"


@dataclass(frozen=True)
class Weights:
    """Where the weights of an encoder are: `file` on this machine, None where they would have to be downloaded.

    `config` is what open_clip knows of the pretrained tag; `assumed` says what it was taken to be for weights without a
    tag. On the hub they are `files` of `repository`, the preferred one first; `url` is another place. All are empty
    where there is none.
    """

    architecture: str
    config: dict
    file: str | None
    repository: str = ""
    files: tuple[str, ...] = ()
    url: str = ""
    assumed: str = ""

    @property
    def instructions(self) -> str:
        """What a person does to have them here."""
        wanted = [f"  {self.url}\n    to {OPENAI_CACHE / os.path.basename(self.url)}"] if self.url else []
        if self.repository:
            folder = f"models--{self.repository.replace('/', '--')}"
            wanted.append(
                f"  hf download {self.repository} {self.files[0]}\n    and the folder {folder} of its cache to"
                f" {HF_HUB_CACHE}"
            )
        return "Get one of these where there is a network, and copy it here:\n" + "\n".join(wanted)


def locate(name: str, weights: str | None = None) -> Weights:
    """The weights that `--clip-encoder name --clip-weights weights` means. Nothing is downloaded.

    Raises UserError for a name or a tag that open_clip does not know, and for a file that is not there.
    """
    architecture, tag = names.architecture(name)
    if name in names.DEMO:
        open_clip.add_model_config(DEMO_MODELS / f"{name}.json")
        weights = weights or str(DEMO_MODELS / f"{name}.safetensors")
    if architecture not in open_clip.list_models():
        raise UserError(
            f"no encoder is called '{name}'. OpenAI's: {', '.join(names.OPENAI)};"
            f" the project's own: {', '.join(names.DEMO)};"
            f" open_clip's, with a pretrained tag: {', '.join(open_clip.list_models()[:8])}, ..."
        )
    if weights is not None:
        bare = ":" not in name and name not in names.OPENAI
        config = _agreed_config(architecture, weights) if bare else _tag_config(name, architecture, tag)
        _require_file(weights)
        assumed = f"{name} with {weights} is taken to have {_settings(architecture, config)}" if bare else ""
        return Weights(architecture, config, weights, assumed=assumed if name not in names.DEMO else "")
    config = _tag_config(name, architecture, tag)
    repository, filename = os.path.split(config.get("hf_hub", ""))
    files = tuple(_hub_files(filename)) if repository else ()
    url = config.get("url", "")
    return Weights(architecture, config, _cached(repository, files, url), repository, files, url)


def preprocessing_of(name: str) -> Preprocessing | None:
    """Return how the encoder of this name wants its images; None where the name does not tell."""
    architecture, tag = names.architecture(name)
    with suppress(UserError):
        config = _tag_config(name, architecture, tag) if tag else _agreed_config(architecture, name)
        if architecture in open_clip.list_models():
            return preprocessing(architecture, config)
    return None


def _require_file(path: str) -> None:
    """Raise UserError unless `path` is a file, or a link to one."""
    if not Path(path).is_file():
        what = "is a folder; give the file in it" if Path(path).is_dir() else "is no file"
        raise UserError(f"weights {path}: " + (what if Path(path).exists() else "there is no such file"))


def _tag_config(name: str, architecture: str, tag: str | None) -> dict:
    """What open_clip knows of a pretrained tag."""
    config = get_pretrained_cfg(architecture, tag) if tag else {}
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise UserError(
            f"--clip-encoder {name}: which weights? Write {architecture}:<tag> with one of {', '.join(tags) or 'none'},"
            " or give a file with --clip-weights"
        )
    return config


def _agreed_config(architecture: str, weights: str) -> dict:
    """What goes with all pretrained tags of an architecture, for weights without a tag; nothing where it has no tags.

    Raises UserError where the tags differ: the file does not say how its encoder sees images.
    """
    configs: dict[str, dict] = {}
    tags: dict[str, list[str]] = {}
    for tag in open_clip.list_pretrained_tags_by_model(architecture):
        config = get_pretrained_cfg(architecture, tag)
        settings = _settings(architecture, config)
        configs[settings] = config
        tags.setdefault(settings, []).append(tag)
    if len(configs) > 1:
        lines = [f"{settings}: {', '.join(own)}" for settings, own in tags.items()]
        raise UserError(
            f"--clip-encoder {architecture}: its pretrained weights are of {len(configs)} kinds, and {weights} does not"
            f" say which it is of. Write {architecture}:<tag> with the tag that it belongs to or was trained like:\n  "
            + "\n  ".join(lines)
        )
    return next(iter(configs.values()), {})


def _settings(architecture: str, config: dict) -> str:
    """The activation and the preparation of images that go with weights, which the weights do not say themselves."""
    quick = config.get("quick_gelu") or open_clip.get_model_config(architecture).get("quick_gelu")
    return f"{'QuickGELU' if quick else 'GELU'}, resize {preprocessing(architecture, config).description}"


def _hub_files(filename: str) -> list[str]:
    """The files that open_clip looks for on the hub, in its order: safetensors before the file that a tag names."""
    if not filename:
        return list(HUB_FILES)
    stem, ending = os.path.splitext(filename)
    return [f"{stem}.safetensors", filename] if ending in (".bin", ".pth") else [filename]


def _cached(repository: str, files: Iterable[str], url: str) -> str | None:
    """Weights of a pretrained tag in a cache on this machine."""
    archive = OPENAI_CACHE.expanduser() / os.path.basename(url)
    if url and archive.is_file():
        return str(archive)
    found = (huggingface_hub.try_to_load_from_cache(repository, file) for file in files)
    return next((path for path in found if isinstance(path, str)), None)


def download(name: str, place: Weights) -> str:
    """Fetch weights; without a network, raise UserError in seconds, not after a minute of retries."""
    try:
        probe = huggingface_hub.hf_hub_url(place.repository, place.files[-1]) if place.repository else place.url
        huggingface_hub.get_session().head(probe, timeout=10)
        return download_pretrained(place.config)
    except Exception as error:  # whatever the network and its libraries come up with, the remedy is the same
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UserError(
            f"the weights of {name} are not on this machine and cannot be downloaded ({reason}).\n"
            f"{place.instructions}\nor pass a file you have: --clip-encoder {name} --clip-weights FILE"
        ) from error
