"""Load a CLIP encoder through open_clip: OpenAI's weights, any open_clip tag, a local file, or the demo's."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import huggingface_hub
import open_clip
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor, nn

from engine import released
from engine.clip import names
from engine.clip.fit import build
from engine.clip.frozen import EncoderOutput, FrozenImageEncoder, FrozenTextEncoder
from engine.clip.preprocessing import preprocessing
from engine.clip.split import trainable_image, trainable_text
from engine.clip.weights import download, locate
from engine.digests import tensors_digest
from engine.errors import UserError
from engine.preprocessing import Preprocessing

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What `--precision` names: the type that matrix products and convolutions of the frozen parts are made in."""
TOKENIZED = 4096
"""How many prompts are tokenized at a time: Hugging Face's tokenizers take over 10 kB for each until they return."""


@dataclass(frozen=True)
class Encoder:
    """A CLIP model in eval mode with what its inputs must look like.

    `digest` is the SHA-256 of the weights: features of two encoders are told apart by it whatever their names.
    `image` and `text` are the trainable parts of its towers by the number of their layers, None for no layers; what
    comes before them is frozen, and runs in `precision`. `assumed` says what weights without a tag are taken to go
    with.
    """

    name: str
    digest: str
    model: nn.Module
    image: dict[int, nn.Module | None]
    text: dict[int, nn.Module | None]
    tokenizer: SimpleTokenizer | HFTokenizer
    preprocessing: Preprocessing
    device: str
    precision: str = "fp32"
    assumed: str = ""

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor, layers: Collection[int] | None = None) -> dict[int, EncoderOutput]:
        """What the image tower makes of normalised pixels [B, 3, size, size], in one pass.

        By number of trainable layers, all of `image` or some: for 0 raw features [B, D], else what goes into them.
        """
        with self._autocast():
            return _float32(self._images(pixels.to(self.device), self.image if layers is None else layers))

    def tokens(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Return prompts as tokens, int64 [n, context length], and how many of each matter, int64 [n]."""
        tokens = self._tokenized(prompts, self.tokenizer.context_length)
        return tokens, self._texts.lengths(tokens)

    @torch.inference_mode()
    def encode_texts(self, tokens: Tensor, layers: Collection[int] | None = None) -> dict[int, EncoderOutput]:
        """What the text tower makes of tokens [B, L], which may be cut to the longest that matters, in one pass.

        By number of trainable layers, all of `text` or some: for 0 raw features [B, D], else [B, L, width] and the
        positions [B] of the ends of the texts.
        """
        with self._autocast():
            return _float32(self._texts(tokens.to(self.device), self.text if layers is None else layers))

    @cached_property
    def image_shapes(self) -> dict[int, torch.Size]:
        """The shape of what is cached of one image, by number of trainable layers: seen on a blank one."""
        blank = torch.zeros(1, 3, self.preprocessing.size, self.preprocessing.size)
        return {layers: features.shape[1:] for layers, (features,) in self.encode_images(blank).items()}

    @cached_property
    def _images(self) -> FrozenImageEncoder:
        return FrozenImageEncoder(self.model, self.image)

    @cached_property
    def _texts(self) -> FrozenTextEncoder:
        return FrozenTextEncoder(self.model, self.text)

    def _autocast(self) -> torch.autocast:
        lower = self.precision != "fp32"
        return torch.autocast(torch.device(self.device).type, PRECISIONS[self.precision], enabled=lower)

    def truncated(self, prompts: list[str]) -> list[str]:
        """Return those of `prompts` that do not fit the text encoder: the tokenizer cuts their end off without a word.

        A prompt that does not fit has more tokens, padding aside, where there is twice the room. Tokenizers share no
        other way to find that out: they clean texts in different ways, and add different special tokens.
        """
        room = self.tokenizer.context_length
        padding = self.tokenizer([""], 2 * room).mode().values
        kept, whole = ((self._tokenized(prompts, length) != padding).sum(1) for length in (room, 2 * room))
        return [prompt for prompt, is_cut in zip(prompts, (whole > kept).tolist(), strict=True) if is_cut]

    def _tokenized(self, prompts: list[str], length: int) -> Tensor:
        """Return prompts as tokens [n, length], int64."""
        chunks = (prompts[at : at + TOKENIZED] for at in range(0, len(prompts), TOKENIZED))
        return torch.cat([torch.empty(0, length, dtype=torch.int64), *(self.tokenizer(own, length) for own in chunks)])


def _float32(outputs: dict[int, EncoderOutput]) -> dict[int, EncoderOutput]:
    """The same with all numbers that have a point in float32."""
    return {
        layers: tuple(tensor.float() if tensor.is_floating_point() else tensor for tensor in cached)
        for layers, cached in outputs.items()
    }


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
    if name in names.DEMO and weights is None:
        released.check_demo(Path(place.file))
    weights = place.file or download(name, place)
    tokenizer = _tokenizer(architecture)
    try:
        model = build(architecture, config, weights)
    except UserError:
        raise
    except Exception as error:  # open_clip, timm and transformers have an exception each for every mishap
        reason = "\n  ".join([type(error).__name__, *(line[:200] for line in str(error).splitlines()[:6])])
        raise UserError(f"{weights}: these weights cannot be loaded as {architecture}:\n  {reason}") from error
    torch.backends.cudnn.allow_tf32 = False  # on by default, and not the float32 that the store says its features are
    model = model.eval().requires_grad_(False).to(device)
    return Encoder(
        name=name,
        digest=state_digest(model),
        model=model,
        image={layers: trainable_image(model, layers) for layers in image_layers},
        text={layers: trainable_text(model, layers) for layers in text_layers},
        tokenizer=tokenizer,
        preprocessing=preprocessing(architecture, config),
        device=device,
        precision=precision,
        assumed=place.assumed,
    )


def state_digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of a module's state dict."""
    return tensors_digest(model.state_dict())


def _tokenizer(architecture: str) -> SimpleTokenizer | HFTokenizer:
    """Return CLIP's tokenizer, which comes with open_clip, or for some architectures one of Hugging Face's.

    Raises UserError when its files, or the package that reads them, are not on this machine.
    """
    repository = open_clip.get_model_config(architecture)["text_cfg"].get("hf_tokenizer_name", "")
    try:
        # without a network, Hugging Face's code would retry for most of a minute before it looks at its cache
        local = {"local_files_only": True} if repository and not _is_reachable(repository) else {}
        return open_clip.get_tokenizer(architecture, **local)
    except ImportError as error:
        raise UserError(
            f"the tokenizer of {architecture} is one of Hugging Face's, and needs a package that is not installed"
            f' ({_in_a_line(error)}): pip install "transformers[sentencepiece]"'
        ) from error
    except Exception as error:  # transformers, tokenizers and the hub have an exception each for every mishap
        folder = f"models--{repository.replace('/', '--')}"
        raise UserError(
            f"the tokenizer of {architecture} cannot be loaded ({_in_a_line(error)}).\nRun this where there is a"
            f" network, and copy the folder {folder} of its cache to {HF_HUB_CACHE}:\n"
            f"  python -c \"import open_clip; open_clip.get_tokenizer('{architecture}')\""
        ) from error


def _is_reachable(repository: str) -> bool:
    """Whether files of a repository can be asked for on Hugging Face's hub."""
    try:
        url = huggingface_hub.hf_hub_url(repository, "tokenizer_config.json")
        huggingface_hub.get_session().head(url, timeout=10)
    except Exception:  # whatever the network and its libraries come up with
        return False
    return True


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
