"""The weights of an encoder: their location, their settings and how to get them."""

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
"""open_clip's file names on the hub for tags without one, the preferred one first."""
OPENAI_CACHE = Path("~/.cache/clip")
"""The folder of archives (RN50.pt, ...) of OpenAI's own package."""
DEMO_MODELS = Path(__file__).parents[1] / "demo" / "models"


@dataclass(frozen=True)
class Weights:
    """The location of the weights of an encoder: `file` on this machine, None if they must be downloaded.

    `config` is open_clip's configuration of the pretrained tag; for weights without a tag, `assumed` describes the
    assumed one. On the hub, the weights are `files` of `repository`, the preferred one first; `url` is an alternative.
    Fields are empty if there is no such location.
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
        """The manual download, for messages."""
        wanted = [f"  {self.url}\n    to {OPENAI_CACHE / os.path.basename(self.url)}"] if self.url else []
        if self.repository:
            folder = f"models--{self.repository.replace('/', '--')}"
            wanted.append(
                f"  hf download {self.repository} {self.files[0]}\n    and the folder {folder} of its cache to"
                f" {HF_HUB_CACHE}"
            )
        return "Get one of these where there is a network, and copy it here:\n" + "\n".join(wanted)


def locate(name: str, weights: str | None = None) -> Weights:
    """Find the weights of `--clip-encoder name --clip-weights weights`. Nothing is downloaded.

    Raises UserError for a name or a tag that open_clip does not know, and for a missing file.
    """
    architecture, tag = names.architecture(name)
    if name in names.DEMO:
        open_clip.add_model_config(DEMO_MODELS / f"{name}.json")
        weights = weights or str(DEMO_MODELS / f"{name}.safetensors")
    if architecture not in open_clip.list_models():
        raise UserError(
            f"no encoder is called '{name}'. Choose one of OpenAI's: {', '.join(names.OPENAI)};"
            f" one of the project's: {', '.join(names.DEMO)};"
            f" or one of open_clip's, with a pretrained tag: {', '.join(open_clip.list_models()[:8])}, ..."
        )
    if weights is not None:
        bare = ":" not in name and name not in names.OPENAI
        config = _agreed_config(architecture, weights) if bare else _tag_config(name, architecture, tag)
        _require_file(weights)
        assumed = f"{name} with {weights} is assumed to have {_settings(architecture, config)}" if bare else ""
        return Weights(architecture, config, weights, assumed=assumed if name not in names.DEMO else "")
    config = _tag_config(name, architecture, tag)
    repository, filename = os.path.split(config.get("hf_hub", ""))
    files = tuple(_hub_files(filename)) if repository else ()
    url = config.get("url", "")
    return Weights(architecture, config, _find_in_cache(repository, files, url), repository, files, url)


def preprocessing_of(name: str) -> Preprocessing | None:
    """Return the preprocessing of the encoder of this name; None if the name does not determine it."""
    architecture, tag = names.architecture(name)
    with suppress(UserError):
        config = _tag_config(name, architecture, tag) if tag else _agreed_config(architecture, name)
        if architecture in open_clip.list_models():
            return preprocessing(architecture, config)
    return None


def _require_file(path: str) -> None:
    """Raise UserError unless `path` is a file, or a link to one."""
    if not Path(path).is_file():
        fault = "is a folder; pass the file in it" if Path(path).is_dir() else "is not a file; pass another one"
        raise UserError(f"weights {path}: " + (fault if Path(path).exists() else "there is no such file"))


def _tag_config(name: str, architecture: str, tag: str | None) -> dict:
    """Return open_clip's configuration of a pretrained tag. Raises UserError if there is none."""
    config = get_pretrained_cfg(architecture, tag) if tag else {}
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise UserError(
            f"--clip-encoder {name} does not determine the weights. Write {architecture}:<tag> with one of"
            f" {', '.join(tags) or 'none'}, or pass a file with --clip-weights"
        )
    return config


def _agreed_config(architecture: str, weights: str) -> dict:
    """Return the configuration that all pretrained tags of an architecture share; empty if it has no tags.

    Raises UserError if the tags differ: a file without a tag does not state its preprocessing and activation.
    """
    configs: dict[str, dict] = {}
    tags: dict[str, list[str]] = {}
    for tag in open_clip.list_pretrained_tags_by_model(architecture):
        config = get_pretrained_cfg(architecture, tag)
        settings = _settings(architecture, config)
        configs[settings] = config
        tags.setdefault(settings, []).append(tag)
    if len(configs) > 1:
        lines = [f"{settings}: {', '.join(of_settings)}" for settings, of_settings in tags.items()]
        raise UserError(
            f"--clip-encoder {architecture}: its pretrained weights are of {len(configs)} kinds, and {weights} does not"
            f" state its own. Write {architecture}:<tag> with the tag of the file, or one that was trained alike:\n  "
            + "\n  ".join(lines)
        )
    return next(iter(configs.values()), {})


def _settings(architecture: str, config: dict) -> str:
    """Describe the activation and the preprocessing of weights, which files of weights do not state."""
    quick = config.get("quick_gelu") or open_clip.get_model_config(architecture).get("quick_gelu")
    return f"{'QuickGELU' if quick else 'GELU'}, resize {preprocessing(architecture, config).description}"


def _hub_files(filename: str) -> list[str]:
    """Return the files that open_clip looks for on the hub, in its order: safetensors before the file of the tag."""
    if not filename:
        return list(HUB_FILES)
    stem, ending = os.path.splitext(filename)
    return [f"{stem}.safetensors", filename] if ending in (".bin", ".pth") else [filename]


def _find_in_cache(repository: str, files: Iterable[str], url: str) -> str | None:
    """Return the path of weights in a cache on this machine; None if they are not there."""
    archive = OPENAI_CACHE.expanduser() / os.path.basename(url)
    if url and archive.is_file():
        return str(archive)
    found = (huggingface_hub.try_to_load_from_cache(repository, file) for file in files)
    return next((path for path in found if isinstance(path, str)), None)


def download(name: str, weights: Weights) -> str:
    """Download weights and return their path. Without a network, raise UserError in seconds, not after a minute."""
    try:
        probe = huggingface_hub.hf_hub_url(weights.repository, weights.files[-1]) if weights.repository else weights.url
        huggingface_hub.get_session().head(probe, timeout=10)
        return download_pretrained(weights.config)
    except Exception as error:  # any error of the network and its libraries: the advice is the same
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UserError(
            f"the weights of {name} are not on this machine and cannot be downloaded ({reason}).\n"
            f"{weights.instructions}\nor pass a file you have: --clip-encoder {name} --clip-weights FILE"
        ) from error
