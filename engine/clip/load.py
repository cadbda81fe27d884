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
"""Values of `--precision`: the compute type of matrix products and convolutions in the frozen parts."""
TOKENIZED = 4096
"""Prompts that are tokenized at a time: Hugging Face's tokenizers take over 10 kB for each until they return."""


@dataclass(frozen=True)
class Encoder:
    """A CLIP model in eval mode with its tokenizer and preprocessing.

    `digest` is the SHA-256 of the weights, which distinguishes features of two encoders of the same name. `image` and
    `text` are the trainable last layers of the towers by their number, None for 0; the layers before them are frozen
    and run in `precision`. `assumed` describes the assumptions about weights without a tag.
    """

    name: str
    digest: str
    model: nn.Module
    image: dict[int | str, nn.Module | None]
    text: dict[int, nn.Module | None]
    tokenizer: SimpleTokenizer | HFTokenizer
    preprocessing: Preprocessing
    device: str
    precision: str = "fp32"
    assumed: str = ""

    @torch.inference_mode()
    def encode_images(
        self, pixels: Tensor, layers: Collection[int | str] | None = None
    ) -> dict[int | str, EncoderOutput]:
        """Encode normalised pixels [B, 3, size, size] in one pass for each number of trainable `layers` (default: all).

        For 0 the output is raw features [B, D], otherwise the input of the trainable layers.
        """
        with self._autocast():
            return _float32(self._images(pixels.to(self.device), self.image if layers is None else layers))

    def tokens(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Tokenize prompts: int64 [n, context length], and the number of tokens that matter in each, int64 [n]."""
        tokens = self.tokenize(prompts, self.tokenizer.context_length)
        return tokens, self._texts.lengths(tokens)

    @torch.inference_mode()
    def encode_texts(self, tokens: Tensor, layers: Collection[int] | None = None) -> dict[int, EncoderOutput]:
        """Encode tokens [B, L] in one pass for each number of trainable `layers` (default: all).

        Tokens may be cut to the longest text. For 0 the output is raw features [B, D], otherwise the input of the
        trainable layers, [B, L, width], and the end-of-text positions [B].
        """
        with self._autocast():
            return _float32(self._texts(tokens.to(self.device), self.text if layers is None else layers))

    @cached_property
    def image_shapes(self) -> dict[int | str, torch.Size]:
        """The output shape for one image, by number of trainable layers, measured on a blank image."""
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

    def truncated(self, prompts: list[str], room: int | None = None) -> list[str]:
        """Return the `prompts` that are too long for the text encoder: the tokenizer truncates them silently.

        `room` is a number of tokens, by default the context length. A prompt that is too long has more tokens, without
        padding, at twice the length. Tokenizers have no other common way to find out: they clean texts in different
        ways, and add different special tokens.
        """
        room = room or self.tokenizer.context_length
        padding = self.tokenizer([""], 2 * room).mode().values
        kept, whole = ((self.tokenize(prompts, length) != padding).sum(1) for length in (room, 2 * room))
        return [prompt for prompt, is_cut in zip(prompts, (whole > kept).tolist(), strict=True) if is_cut]

    def tokenize(self, prompts: list[str], length: int) -> Tensor:
        """Tokenize prompts to [n, length], int64."""
        chunks = (prompts[at : at + TOKENIZED] for at in range(0, len(prompts), TOKENIZED))
        tokens = [self.tokenizer(chunk, length) for chunk in chunks]
        return torch.cat([torch.empty(0, length, dtype=torch.int64), *tokens])


def _float32(outputs: dict[int, EncoderOutput]) -> dict[int, EncoderOutput]:
    """Convert floating-point outputs to float32."""
    return {
        layers: tuple(tensor.float() if tensor.is_floating_point() else tensor for tensor in tensors)
        for layers, tensors in outputs.items()
    }


def load_encoder(
    name: str,
    weights: str | None = None,
    device: str = "cpu",
    image_layers: Iterable[int | str] = (0,),
    text_layers: Iterable[int] = (0,),
    precision: str = "fp32",
) -> Encoder:
    """Load the encoder of `--clip-encoder name --clip-weights weights`, in eval mode, on `device`.

    Weights are float32; the frozen parts compute in `precision`. `image_layers` and `text_layers` are numbers of
    trainable layers. Raises UserError for an unknown name; for weights that are missing, cannot be downloaded (the
    message states which file to get and where to put it) or do not fit the architecture; and for towers that cannot be
    split at these layers.
    """
    location = locate(name, weights)
    architecture, config = location.architecture, location.config
    if name in names.DEMO and weights is None:
        released.check_demo(Path(location.file))
    weights = location.file or download(name, location)
    tokenizer = _tokenizer(architecture)
    try:
        model = build(architecture, config, weights)
    except UserError:
        raise
    except Exception as error:  # open_clip, timm and transformers raise many kinds
        reason = "\n  ".join([type(error).__name__, *(line[:200] for line in str(error).splitlines()[:6])])
        raise UserError(f"{weights}: these weights cannot be loaded as {architecture}:\n  {reason}") from error
    torch.backends.cudnn.allow_tf32 = False  # on by default, but features are recorded as float32
    model = model.eval().requires_grad_(False).to(device)
    return Encoder(
        name=name,
        digest=state_digest(model),
        model=model,
        image=_trainable_images(name, model, image_layers),
        text={layers: trainable_text(model, layers) for layers in text_layers},
        tokenizer=tokenizer,
        preprocessing=preprocessing(architecture, config),
        device=device,
        precision=precision,
        assumed=location.assumed,
    )


def _trainable_images(
    name: str, model: nn.Module, image_layers: Iterable[int | str]
) -> dict[int | str, nn.Module | None]:
    """Return the trainable part of the image tower by its layers. Raises UserError that names the encoder."""
    try:
        return {layers: trainable_image(model, layers) for layers in image_layers}
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def state_digest(model: nn.Module) -> str:
    """Return the SHA-256 over names, shapes, types and bytes of a module's state dict."""
    return tensors_digest(model.state_dict())


def _tokenizer(architecture: str) -> SimpleTokenizer | HFTokenizer:
    """Return CLIP's tokenizer, which is part of open_clip, or Hugging Face's tokenizer of the architecture.

    Raises UserError if its files, or the package that reads them, are not on this machine.
    """
    repository = open_clip.get_model_config(architecture)["text_cfg"].get("hf_tokenizer_name", "")
    try:
        # without a network, Hugging Face's code retries for most of a minute before it uses its cache
        local = {"local_files_only": True} if repository and not _is_reachable(repository) else {}
        return open_clip.get_tokenizer(architecture, **local)
    except ImportError as error:
        raise UserError(
            f"the tokenizer of {architecture} is from Hugging Face and needs a package that is not installed"
            f' ({_one_line(error)}): pip install "transformers[sentencepiece]"'
        ) from error
    except Exception as error:  # transformers, tokenizers and the hub raise many kinds
        folder = f"models--{repository.replace('/', '--')}"
        raise UserError(
            f"the tokenizer of {architecture} cannot be loaded ({_one_line(error)}).\nRun this where there is a"
            f" network, and copy the folder {folder} of its cache to {HF_HUB_CACHE}:\n"
            f"  python -c \"import open_clip; open_clip.get_tokenizer('{architecture}')\""
        ) from error


def _is_reachable(repository: str) -> bool:
    """Return whether Hugging Face's hub can be reached."""
    try:
        url = huggingface_hub.hf_hub_url(repository, "tokenizer_config.json")
        huggingface_hub.get_session().head(url, timeout=10)
    except Exception:  # any error of the network and its libraries
        return False
    return True


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
