"""Encoder names: their architectures and tags in open_clip, and the folders of their features."""

import open_clip
import pytest

from engine.clip import names

FOLDERS = {
    "RN50": "RN50",
    "RN101": "RN101",
    "RN50x4": "RN50x4",
    "RN50x16": "RN50x16",
    "RN50x64": "RN50x64",
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14@336px",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_openais_names(name):
    assert name in names.OPENAI
    architecture, tag = names.architecture(name)
    assert architecture in open_clip.list_models()
    assert tag == "openai"
    assert open_clip.pretrained.get_pretrained_cfg(architecture, tag)["quick_gelu"]
    assert names.folder(name) == FOLDERS[name]


def test_the_table_above_is_complete():
    assert list(FOLDERS) == list(names.OPENAI)


def test_open_clip_names_have_tags():
    assert names.architecture("ViT-B-16") == ("ViT-B-16", "openai")
    assert names.architecture("ViT-B-16:datacomp_xl_s13b_b90k") == ("ViT-B-16", "datacomp_xl_s13b_b90k")
    assert names.architecture("ViT-B/16:datacomp_xl_s13b_b90k") == ("ViT-B-16", "datacomp_xl_s13b_b90k")
    assert names.architecture("ViT-H-14") == ("ViT-H-14", None)
    assert names.architecture("demo-RN") == ("demo-RN", None)


def test_folders_have_one_level_and_are_distinct():
    assert names.folder("ViT-B-16:datacomp_xl_s13b_b90k") == "ViT-B-16-datacomp_xl_s13b_b90k"
    assert names.folder("ViT-B/16") == names.folder("ViT-B-16")
    assert names.folder("RN50", "/far/away/RN50.pt") == "RN50@RN50"
    assert names.folder("ViT-B/16", "my model (v1.2).safetensors") == "ViT-B-16@my-model-v1.2-"
    assert names.folder("RN50") != names.folder("RN50", "weights.pt")


@pytest.mark.parametrize("name", [*names.OPENAI, *names.DEMO, "ViT-B-16:datacomp_xl_s13b_b90k"])
def test_parse_folder_inverts_folder(name):
    assert names.parse_folder(names.folder(name)) == (name, None)
    assert names.parse_folder(names.folder(name, "/far/away/mine.pt")) == (name, "mine")
    assert names.parse_folder("ViT-H-14@mine") == ("ViT-H-14", "mine")
