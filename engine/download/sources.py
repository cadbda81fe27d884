"""Addresses of datasets. Other datasets are installed by hand; DATASETS.md describes all of them.

URLs and MD5 sums of archives are from torchvision's datasets of the same names (`torchvision/datasets`); Google Drive's
ids of split files are from CoOp's DATASETS.md. Hosts move, so downloads are checked.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """A .zip or .tar.gz. The entries `keeps` of its folder `inside` are moved to the dataset's folder.

    `inner` names an archive within the archive to use instead. `md5` is None if none is published.
    """

    url: str
    md5: str | None
    inside: str
    keeps: tuple[str, ...]
    inner: str | None = None

    @property
    def name(self) -> str:
        """Return the name of the archive file."""
        return self.url.rsplit("/", 1)[1]


ARCHIVES = {
    "caltech101": Archive(
        "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
        "3138e1922a9193bfa496528edbbc45d0",
        "",
        ("101_ObjectCategories",),
        inner="caltech-101/101_ObjectCategories.tar.gz",
    ),
    "dtd": Archive(
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
        "fff73e5086ae6bdbea199a49dfb8a4c1",
        "dtd",
        ("images",),
    ),
    "eurosat": Archive(
        "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
        "c8fa014336c82ac7804f0398fcb19387",
        "",
        ("2750",),
    ),
    "fgvc_aircraft": Archive(
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
        None,
        "fgvc-aircraft-2013b/data",
        ("images", *(f"images_variant_{split}.txt" for split in ("train", "val", "test")), "variants.txt"),
    ),
    "food101": Archive(
        "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
        "85eeb15f3717b99a5da872d97d918f87",
        "food-101",
        ("images",),
    ),
    "oxford_flowers": Archive(
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz",
        "52808999861908f626f3c1f4e79d11fa",
        "",
        ("jpg",),
    ),
    "oxford_pets": Archive(
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
        "5c4f3ee8e5d25df40f4fd59a7f44e54c",
        "",
        ("images",),
    ),
    "sun397": Archive(
        "http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
        "8ca2778205c41d23104230ba66911c7a",
        "",
        ("SUN397",),
    ),
}


@dataclass(frozen=True)
class SplitFile:
    """A split file: its address for programs (`url`) and for browsers (`page`), and its SHA-256 if known."""

    url: str
    page: str
    sha256: str | None = None


def _on_drive(identity: str, sha256: str | None = None) -> SplitFile:
    """Return the entry of a small file on Google Drive, which has another address for large ones."""
    return SplitFile(
        f"https://drive.google.com/uc?export=download&id={identity}",
        f"https://drive.google.com/file/d/{identity}/view",
        sha256,
    )


SPLIT_FILES = {
    "caltech101": _on_drive(
        "1hyarUivQE36mY6jSomru6Fjd-JzwcCzN", "52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5"
    ),
    "dtd": _on_drive(
        "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x", "f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38"
    ),
    "eurosat": _on_drive(
        "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o", "541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2"
    ),
    "food101": _on_drive("1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl"),
    "oxford_flowers": _on_drive(
        "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT", "2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794"
    ),
    "oxford_pets": _on_drive(
        "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs", "d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e"
    ),
    "stanford_cars": _on_drive(
        "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT", "40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d"
    ),
    "sun397": _on_drive("1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq"),
    "ucf101": _on_drive(
        "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y", "d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8"
    ),
}
