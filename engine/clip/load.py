"""Load a CLIP encoder through open_clip: OpenAI's weights, any open_clip tag, a local file, or the demo's."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import huggingface_hub
import open_clip
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from torch import Tensor, nn

from engine.clip import names
from engine.clip.frozen import Cached, FrozenImages, FrozenTexts
from engine.clip.split import trainable_image, trainable_text
from engine.digests import tensors_digest
from engine.errors import UserError

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""What open_clip calls weights on the hub where a tag names no file, the preferred one first."""
OPENAI_CACHE = Path("~/.cache/clip")
"""Where OpenAI's own package keeps its archives (RN50.pt, ...)."""
DEMO_MODELS = Path(__file__).parents[1] / "demo" / "models"


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What `--precision` names: the type that matrix products and convolutions of the frozen parts are made in."""


@dataclass(frozen=True)
class Encoder:
    """A CLIP model in eval mode with what its inputs must look like.

    `digest` is the SHA-256 of the weights: features of two encoders are told apart by it whatever their names.
    `image` and `text` are the trainable parts of its towers by the number of their layers, None for no layers; what
    comes before them is frozen, and runs in `precision`.
    """

    name: str
    digest: str
    model: nn.Module
    image: dict[int, nn.Module | None]
    text: dict[int, nn.Module | None]
    tokenizer: open_clip.SimpleTokenizer
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: str
    precision: str = "fp32"

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor, layers: Collection[int] | None = None) -> dict[int, Cached]:
        """What the image tower makes of normalised pixels [B, 3, image_size, image_size], in one pass.

        By number of trainable layers, all of `image` or some: for 0 raw features [B, D], else what goes into them.
        """
        with self._autocast():
            return _float32(self._images(pixels.to(self.device), self.image if layers is None else layers))

    def tokens(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Prompts as tokens, int64 [n, context length], and how many of each matter, int64 [n]."""
        tokens = self.tokenizer(prompts)
        return tokens, self._texts.lengths(tokens)

    @torch.inference_mode()
    def encode_texts(self, tokens: Tensor, layers: Collection[int] | None = None) -> dict[int, Cached]:
        """What the text tower makes of tokens [B, L], which may be cut to the longest that matters, in one pass.

        By number of trainable layers, all of `text` or some: for 0 raw features [B, D], else [B, L, width] and the
        positions [B] of the ends of the texts.
        """
        with self._autocast():
            return _float32(self._texts(tokens.to(self.device), self.text if layers is None else layers))

    @cached_property
    def image_shapes(self) -> dict[int, torch.Size]:
        """The shape of what is cached of one image, by number of trainable layers: seen on a blank one."""
        blank = torch.zeros(1, 3, self.image_size, self.image_size)
        return {layers: features.shape[1:] for layers, (features,) in self.encode_images(blank).items()}

    @cached_property
    def _images(self) -> FrozenImages:
        return FrozenImages(self.model, self.image)

    @cached_property
    def _texts(self) -> FrozenTexts:
        return FrozenTexts(self.model, self.text)

    def _autocast(self) -> torch.autocast:
        lower = self.precision != "fp32"
        return torch.autocast(torch.device(self.device).type, PRECISIONS[self.precision], enabled=lower)

    def truncated(self, prompts: list[str]) -> list[str]:
        """Those of `prompts` that do not fit the text encoder: the tokenizer cuts their end off without a word."""
        encode = getattr(self.tokenizer, "encode", None)
        room = self.tokenizer.context_length - 2  # start and end of text
        return [prompt for prompt in prompts if len(encode(prompt)) > room] if encode else []


def _float32(outputs: dict[int, Cached]) -> dict[int, Cached]:
    """The same with all numbers that have a point in float32."""
    return {
        layers: tuple(tensor.float() if tensor.is_floating_point() else tensor for tensor in cached)
        for layers, cached in outputs.items()
    }


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


def load_encoder(
    name: str,
    weights: str | None = None,
    device: str = "cpu",
    image_layers: Iterable[int] = (0,),
    text_layers: Iterable[int] = (0,),
    precision: str = "fp32",
) -> Encoder:
    """Load the encoder that `--clip-encoder name --clip-weights weights` means, in eval mode, on `device`.

    Its weights are float32; `precision` is that of its frozen parts, up to each of the numbers of trainable layers.
    Raises UserError for a name that open_clip does not know, for weights that are missing, cannot be downloaded (says
    which file to get and where to put it) or do not fit the architecture, and for layers that cannot be split off.
    """
    place = locate(name, weights)
    architecture, config = place.architecture, place.config
    weights = place.file or _download(name, place)
    tokenizer = _tokenizer(architecture)
    try:
        model = _build(architecture, config, weights)
    except Exception as error:  # open_clip, torch, safetensors and pickle have an exception each for every mishap
        reason = "\n  ".join([type(error).__name__, *(line[:200] for line in str(error).splitlines()[:6])])
        raise UserError(f"{weights}: these weights cannot be loaded as {architecture}:\n  {reason}") from error
    torch.backends.cudnn.allow_tf32 = False  # on by default, and not the float32 that the store says its features are
    model = model.eval().requires_grad_(False).to(device)
    size = model.visual.image_size
    return Encoder(
        name=name,
        digest=state_digest(model),
        model=model,
        image={layers: trainable_image(model, layers) for layers in image_layers},
        text={layers: trainable_text(model, layers) for layers in text_layers},
        tokenizer=tokenizer,
        image_size=size[0] if isinstance(size, tuple) else size,
        mean=tuple(model.visual.image_mean),
        std=tuple(model.visual.image_std),
        device=device,
        precision=precision,
    )


def state_digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of a module's state dict."""
    return tensors_digest(model.state_dict())


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


def _tokenizer(architecture: str) -> open_clip.SimpleTokenizer:
    """CLIP's tokenizer, which comes with open_clip, or for some architectures (SigLIP) one of Hugging Face's."""
    try:
        return open_clip.get_tokenizer(architecture)
    except (ImportError, OSError) as error:
        raise UserError(
            f"the tokenizer of {architecture} is not on this machine ({str(error).splitlines()[0]}):"
            " it needs `pip install transformers` and, the first time, a network"
        ) from error


def _build(architecture: str, config: dict, weights: str) -> nn.Module:
    """The model with the weights of a file, all of which must fit."""
    if _is_torchscript(weights):
        return _from_archive(architecture, weights)
    # open_clip only warns when the activation does not match the weights, and a local file gives no warning at all;
    # OpenAI's models were trained with QuickGELU, and the config of their tag says so, like those of some others.
    return open_clip.create_model(
        architecture,
        pretrained=weights,
        force_quick_gelu=bool(config.get("quick_gelu")),
        force_preprocess_cfg={key: config[key] for key in ("mean", "std") if key in config},
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
    model.visual.image_mean, model.visual.image_std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return model


def _is_torchscript(path: str) -> bool:
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


def _download(name: str, place: Weights) -> str:
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
