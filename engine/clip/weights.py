"""The weights of an encoder: where they are, how to get them, and the model that a file of them makes."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import open_clip
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from torch import nn

from engine.clip import names
from engine.errors import UserError

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""What open_clip calls weights on the hub where a tag names no file, the preferred one first."""
OPENAI_CACHE = Path("~/.cache/clip")
"""Where OpenAI's own package keeps its archives (RN50.pt, ...)."""
DEMO_MODELS = Path(__file__).parents[1] / "demo" / "models"


@dataclass(frozen=True)
class Weights:
    """Where the weights of an encoder are: `file` on this machine, None where they would have to be downloaded.

    `config` is what open_clip knows of the pretrained tag. On the hub they are `files` of `repository`, the preferred
    one first; `url` is another place. All are empty where there is none.
    """

    architecture: str
    config: dict
    file: str | None
    repository: str = ""
    files: tuple[str, ...] = ()
    url: str = ""

    @property
    def remedy(self) -> str:
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
    config = _tag_config(name, architecture, tag, weights)
    if weights is not None:
        if not Path(weights).is_file():
            raise UserError(f"weights {weights}: there is no such file")
        return Weights(architecture, config, weights)
    repository, filename = os.path.split(config.get("hf_hub", ""))
    files = tuple(_hub_files(filename)) if repository else ()
    url = config.get("url", "")
    return Weights(architecture, config, _cached(repository, files, url), repository, files, url)


def _tag_config(name: str, architecture: str, tag: str | None, weights: str | None) -> dict:
    """What open_clip knows of a pretrained tag; nothing for an architecture that gets its weights from a file."""
    config = get_pretrained_cfg(architecture, tag) if tag else {}
    if not config and (tag or weights is None):
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise UserError(
            f"--clip-encoder {name}: which weights? Write {architecture}:<tag> with one of {', '.join(tags) or 'none'},"
            " or give a file with --clip-weights"
        )
    return config


def build(architecture: str, config: dict, weights: str) -> nn.Module:
    """The model with the weights of a file, all of which must fit."""
    if is_archive(weights):
        return _from_archive(architecture, weights)
    # open_clip only warns when the activation does not match the weights, and a local file gives no warning at all;
    # OpenAI's models were trained with QuickGELU, and the config of their tag says so, like those of some others.
    return open_clip.create_model(
        architecture, pretrained=weights, force_quick_gelu=bool(config.get("quick_gelu")), force_preprocess_cfg=config
    )


def _from_archive(architecture: str, path: str) -> nn.Module:
    """The model of one of OpenAI's TorchScript archives.

    open_clip's own loader takes the architecture from the archive, whatever was asked for; here it must be the one
    that was named. The archive's half-precision weights become float32.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.load is deprecated, and has no successor for these files
        state = torch.jit.load(path, map_location="cpu").state_dict()
    for constant in ("input_resolution", "context_length", "vocab_size"):
        state.pop(constant, None)
    model = open_clip.CLIP(**open_clip.get_model_config(architecture) | {"quick_gelu": True})
    model.load_state_dict(state)
    return model


def is_archive(path: str) -> bool:
    """Return whether a file of weights is a TorchScript archive, as OpenAI's are."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in entry for entry in archive.namelist())


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
    """Fetch weights; a machine that cannot reach the hub hears so in seconds, not after a minute of retries."""
    try:
        probe = huggingface_hub.hf_hub_url(place.repository, place.files[-1]) if place.repository else place.url
        huggingface_hub.get_session().head(probe, timeout=10)
        return download_pretrained(place.config)
    except Exception as error:  # whatever the network and its libraries come up with, the remedy is the same
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UserError(
            f"the weights of {name} are not on this machine and cannot be downloaded ({reason}).\n{place.remedy}\n"
            f"or pass a file you have: --clip-encoder {name} --clip-weights FILE"
        ) from error
