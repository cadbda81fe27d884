"""Features of prompts equal open_clip's `encode_text(tokenizer(prompts))` for each kind of text tower.

The architectures of `open_clip.list_models()` are grouped by everything that determines the features of prompts: model
class, tokenizer and its settings, context length, mask, pooling, projection, and Hugging Face tower. Width, depth,
vocabulary, activation and the eps of norms are ignored: both implementations call the same modules. One architecture of
each group is tested, shrunk, with random weights; a test id is that architecture and the number of others like it.
Hugging Face's tokenizers and towers are on a hub: the test makes small ones of the same form, and is skipped if
transformers is not installed.
"""

import json

import open_clip
import pytest
import torch
from open_clip import factory
from open_clip.coca_model import CoCa
from safetensors.torch import save_file

from engine.clip.load import load_encoder
from engine.clip.prompting import PromptEncoder
from engine.clip.split import text_tower
from engine.errors import UserError
from engine.features import texts as module
from engine.features.prompts import read_texts
from engine.features.store import FeaturePaths
from engine.features.texts import extract_texts, plan_texts

IRRELEVANT = ("width", "heads", "layers", "mlp_ratio", "vocab_size", "norm_kwargs", "act_kwargs")
VISION = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 32}
WORDS = ("a", "photo", "of", "dog", "red", "dot")
PROMPTS = ["a photo of a dog.", "a photo of a dog", "dot", "Dot", "a photo of a very red dot"]
SAME = {"canonicalize": [(0, 1), (2, 3)], "lower": [(2, 3)], "whitespace": []}
"""Pairs of `PROMPTS` with the same tokens, by the tokenizer's cleaning of texts."""


FORMS = {
    "bert-base": ("[CLS] $A [SEP]", {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]"}),
    "SigLIP2": ("$A <eos>", {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>"}),
    "SigLIP": ("$A </s>", {"bos": "<s>", "eos": "</s>", "pad": "</s>", "unk": "<unk>"}),
    "mt5": ("$A </s>", {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}),
    "nllb": ("eng $A </s>", {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "cls": "eng"}),
    "": ("<s> $A </s>", {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}),
}
"""The frame of a text and the special tokens in the order of their ids, by a substring of the tokenizer's name. The
last form is RoBERTa's and its multilingual successors'."""
SIZE = {"vocab_size": 64, "pad_token_id": 1}
TOWERS = {
    "mt5": ("mt5", {"pad_token_id": 0, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}),
    "nllb": ("m2m_100", {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}),
    "xlm-roberta": ("xlm-roberta", {}),
    "roberta": ("roberta", {}),
}
"""Type and sizes of a small configuration of a Hugging Face tower, by a substring of its name."""
BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def of(table, name):
    """Return the first key of `table` that is a substring of `name`."""
    return next(key for key in table if key in name)


def kind(name):
    """Return everything that determines the features of prompts of an architecture, as a comparable value."""
    config = open_clip.get_model_config(name)
    text = {"context_length": 77, "no_causal_mask": False} | config["text_cfg"]
    text = {key: value for key, value in text.items() if key not in IRRELEVANT}
    for key, table in {"hf_tokenizer_name": FORMS, "hf_model_name": TOWERS}.items():
        if key in text:
            text[key] = of(table, text[key])
    text["class"] = "CoCa" if "multimodal_cfg" in config else config.get("custom_text", "hf_model_name" in text)
    return json.dumps(text, sort_keys=True)


def kinds():
    """Return one architecture of each kind."""
    groups = {}
    for name in open_clip.list_models():
        groups.setdefault(kind(name), []).append(name)
    return [pytest.param(names[0], id=f"{names[0]} and {len(names) - 1} like it") for names in groups.values()]


def make_tokenizer(folder, name):
    """Write a tokenizer of whole words with the special tokens of Hugging Face's `name`; return its folder."""
    transformers = pytest.importorskip("transformers", reason="Hugging Face tokenizers need transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    around, special = FORMS[of(FORMS, name)]
    ids = {token: at for at, token in enumerate([*dict.fromkeys(special.values()), *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=special["unk"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    stated = [(token, ids[token]) for token in dict.fromkeys(special.values())]
    tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=stated)
    tokens = {f"{part}_token": token for part, token in special.items()}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="right", **tokens)
    fast.save_pretrained(folder / "tokenizer")
    return str(folder / "tokenizer")


def make_tower(folder, name):
    """Write a small configuration of the Hugging Face tower `name`; return its folder."""
    kind, size = TOWERS[of(TOWERS, name)]
    folder = folder / "tower"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind} | SIZE | BERT | size))
    return str(folder)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """`small(architecture)`: its name as a small one, and a file of random weights for it."""
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", [*factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", {**factory._MODEL_CONFIGS})

    def make(architecture):
        config = open_clip.get_model_config(architecture)
        text = config["text_cfg"] | {"width": 16, "heads": 2, "layers": 2}
        if "hf_tokenizer_name" in text:
            text["hf_tokenizer_name"] = make_tokenizer(tmp_path, text["hf_tokenizer_name"])
            text["vocab_size"] = 64
        if "hf_model_name" in text:
            text["hf_model_name"] = make_tower(tmp_path, text["hf_model_name"])
        width = 16 if text.get("proj_type") == "none" else 12
        config |= {"embed_dim": width, "vision_cfg": VISION, "text_cfg": text}
        if "multimodal_cfg" in config:
            config["multimodal_cfg"] |= {"width": width, "heads": 2, "layers": 1}
            config["vision_cfg"] = VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
        (tmp_path / f"small-{architecture}.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / f"small-{architecture}.json")
        torch.manual_seed(0)
        model = open_clip.create_model(f"small-{architecture}", pretrained_text=False)
        drawn = {key: value.nan_to_num(0, 0, 0) for key, value in model.state_dict().items()}  # CoCa leaves some empty
        state = {key: value + 0.05 * torch.randn_like(value) for key, value in drawn.items()}
        save_file(state, tmp_path / "weights.safetensors")
        return f"small-{architecture}", str(tmp_path / "weights.safetensors")

    return make


def words(tokenizer, config):
    """Return a prompt of one token per word that just fits a tokenizer, and a prompt with one more word."""
    around = FORMS[of(FORMS, config["hf_tokenizer_name"])][0] if "hf_tokenizer_name" in config else "start $A end"
    room = tokenizer.context_length - (len(around.split()) - 1)
    return [" ".join(["dot"] * length) for length in (room, room + 1)]


@pytest.mark.parametrize("architecture", kinds())
def test_features_equal_open_clips(small, tmp_path, monkeypatch, architecture):
    """In batches of three, cut to their longest prompt if attention is causal."""
    monkeypatch.setattr(module, "BATCH_SIZE", 3)
    name, weights = small(architecture)
    config = open_clip.get_model_config(architecture)["text_cfg"]
    model, tokenizer = open_clip.create_model(name, pretrained=weights).eval(), open_clip.get_tokenizer(name)
    whole = "hf_model_name" in config or isinstance(model, CoCa)
    prompts = [*PROMPTS, *words(tokenizer, config)]
    with torch.no_grad():
        expected = model.encode_text(tokenizer(prompts), normalize=False)  # CoCa normalises by default
    assert (expected - expected[-1]).norm(dim=1)[: len(PROMPTS)].min() > 0.02 * expected[-1].norm()

    layers = [0] if whole else [0, 1, 2, -1]
    encoder, place = load_encoder(name, weights, text_layers=layers), FeaturePaths(tmp_path)
    plan = plan_texts("demo", "vanilla", ["{}"], prompts, place, encoder)
    extract_texts(plan, encoder)
    for count in layers:
        texts = read_texts(place.texts(count, "vanilla"))
        with torch.no_grad():
            found = encoder.text[count](*texts.inputs) if count else texts.features
        assert (found - expected).norm() < 1e-6 * expected.norm(), count

    assert plan.truncated == (prompts[-1],)
    clean = config.get("tokenizer_kwargs", {}).get("clean")
    same = SAME[clean or ("whitespace" if "hf_tokenizer_name" in config else "lower")]
    assert plan.alike == tuple((prompts[one], prompts[other]) for one, other in [*same, (5, 6)])


NAMES = ["dog", "red dot", "very red dot dot"]
WORDED = "a photo of a"


@pytest.mark.parametrize("architecture", kinds())
def test_context_vectors_of_words_are_as_good_as_the_words(small, architecture):
    """Whole, and in chunks, of which the gradient too is that of all classes at once."""
    name, weights = small(architecture)
    encoder = load_encoder(name, weights)
    model, tokenizer = encoder.model, encoder.tokenizer
    if text_tower(model) is None:
        with pytest.raises(UserError, match="cannot put context vectors into the text tower of"):
            PromptEncoder(encoder, NAMES, 4)
        return
    tokens = tokenizer([f"{WORDED} {name}." for name in NAMES])
    start = int((tokens == tokenizer([""])).cumprod(1).sum(1).min())
    context = text_tower(model).token_embedding(tokens[0, start : start + 4]).detach()
    expected = model.encode_text(tokens)
    prompts = PromptEncoder(encoder, NAMES, 4)
    assert (prompts.start.shape[0], prompts.is_shared) == (start, text_tower(model).attn_mask is not None)
    gradients = []
    for at_once in (None, 1, 2):
        leaf = context.clone().requires_grad_()
        found = prompts(leaf, at_once)
        assert (found - expected).norm() < 1e-5 * expected.norm()
        gradients.append(torch.autograd.grad((found * torch.arange(found.numel()).view_as(found)).sum(), leaf)[0])
        assert torch.allclose(gradients[-1], gradients[0], rtol=1e-4, atol=1e-4 * gradients[0].abs().max().item())
    assert (expected[0] - expected[1]).norm() > 0.02 * expected[0].norm()
    assert all(not tensor.requires_grad for tensor in prompts.tensors())
