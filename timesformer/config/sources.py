"""What an option that asks for weights may name: a path, a URL, a released model, a model on the Hugging Face hub."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from timesformer.fetch import url_problem
from timesformer.paths import path_manager

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_TIMM_NAME = re.compile(r"[\w-]+\.[\w-]+")


class ZooModel(NamedTuple):
    """A released model, as published; top-1 and top-5 accuracy in percent."""

    model: str  # TimeSformer has divided attention
    dataset: str
    frames: int
    sampling_rate: int | None  # distance in frames between two frames of a clip; None: segments of the whole video
    crop: int  # side of a clip in pixels
    top1: float
    top5: float | None  # None: not published
    project: str
    license: str
    url: str
    mean: tuple[float, ...] = ()  # DATA.MEAN and DATA.STD with which it was trained; empty: unknown
    std: tuple[float, ...] = ()

    def describe(self) -> str:
        """What was published about it, and its license, in a line."""
        rate = f" x {self.sampling_rate}" if self.sampling_rate else ""
        top5 = f", top-5 {self.top5} %" if self.top5 else ""
        return (
            f"released by {self.project}, trained on {self.dataset}, {self.frames}{rate} frames of "
            f"{self.crop} x {self.crop}; published top-1 {self.top1} %{top5}; license {self.license}"
        )


_NC = "CC-BY-NC: no commercial use"
_TIMESFORMERS = {
    name: ZooModel(
        "TimeSformer",
        *facts,
        "facebookresearch/TimeSformer",
        _NC,
        f"https://www.dropbox.com/s/{folder}/{name}.pyth?dl=1",
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
    )
    for name, *facts, folder in [
        ("TimeSformer_divST_8x32_224_K400", "K400", 8, 32, 224, 77.9, 93.2, "g5t24we9gl5yk88"),
        ("TimeSformer_divST_16x16_448_K400", "K400", 16, 16, 448, 79.6, 94.0, "6f0x172lpqy3oxt"),
        ("TimeSformer_divST_96x4_224_K400", "K400", 96, 4, 224, 80.6, 94.7, "r1iuxahif3sgimo"),
        ("TimeSformer_divST_8x32_224_K600", "K600", 8, 32, 224, 79.1, 94.4, "4h2qt41m2z3aqrb"),
        ("TimeSformer_divST_16x16_448_K600", "K600", 16, 16, 448, 81.8, 95.8, "ft1e92g2vhvxecv"),
        ("TimeSformer_divST_96x4_224_K600", "K600", 96, 4, 224, 82.2, 95.6, "857rx6xeclxfhdg"),
        ("TimeSformer_divST_8_224_SSv2", "SSv2", 8, None, 224, 59.1, 85.6, "tybhuml57y24wpm"),
        ("TimeSformer_divST_16_448_SSv2", "SSv2", 16, None, 448, 61.8, 86.9, "9t68uzk8w2fpfnv"),
        ("TimeSformer_divST_64_224_SSv2", "SSv2", 64, None, 224, 62.0, 87.5, "3f1rm2al8mhprwa"),
        ("TimeSformer_divST_8x32_224_HowTo100M", "HowTo100M", 8, 32, 224, 56.8, None, "9v8hcm88b9tc6ff"),
        ("TimeSformer_divST_32x32_224_HowTo100M", "HowTo100M", 32, 32, 224, 61.2, None, "4roflx4q1gscu85"),
        ("TimeSformer_divST_64x32_224_HowTo100M", "HowTo100M", 64, 32, 448, 62.2, None, "15bvqltl1j5vyp3"),
        ("TimeSformer_divST_96x32_224_HowTo100M", "HowTo100M", 96, 32, 224, 62.6, None, "t2mzgahnfhgakma"),
    ]
}
"""From the README of the original (448 pixels for 64x32, unlike the file name)."""
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_VIDEOMAES = {
    name: ZooModel("VideoMAE", *facts, "MCG-NJU/VideoMAE", _NC, f"hf:MCG-NJU/videomae-{hub_name}", *_IMAGENET)
    for name, *facts, hub_name in [
        ("VideoMAE_S_16x4_224_K400", "K400", 16, 4, 224, 79.0, 93.8, "small-finetuned-kinetics"),
        ("VideoMAE_B_16x4_224_K400", "K400", 16, 4, 224, 81.5, 95.1, "base-finetuned-kinetics"),
        ("VideoMAE_L_16x4_224_K400", "K400", 16, 4, 224, 85.2, 96.8, "large-finetuned-kinetics"),
        ("VideoMAE_H_16x4_224_K400", "K400", 16, 4, 224, 86.6, 97.1, "huge-finetuned-kinetics"),
        ("VideoMAE_S_16_224_SSv2", "SSv2", 16, None, 224, 66.8, 90.3, "small-finetuned-ssv2"),
        ("VideoMAE_B_16_224_SSv2", "SSv2", 16, None, 224, 70.8, 92.4, "base-finetuned-ssv2"),
    ]
}
"""From MODEL_ZOO.md of the original: 5 clips of 3 crops, Something-Something 2 clips of 3 crops."""
_V2_FILES = "https://huggingface.co/OpenGVLab/VideoMAE2/resolve/main/distill"
_VIDEOMAES_V2 = {
    name: ZooModel("VideoMAE", *facts, None, "OpenGVLab/VideoMAEv2", "Apache-2.0", f"{_V2_FILES}/{file}", *_IMAGENET)
    for name, *facts, file in [
        ("VideoMAEv2_S_16x4_224_K710", "K710", 16, 4, 224, 77.6, "vit_s_k710_dl_from_giant.pth"),
        ("VideoMAEv2_B_16x4_224_K710", "K710", 16, 4, 224, 81.5, "vit_b_k710_dl_from_giant.pth"),
    ]
}
"""Distilled from VideoMAE V2's giant model; from its docs/MODEL_ZOO.md, license of its page on the hub."""
ZOO = _TIMESFORMERS | _VIDEOMAES | _VIDEOMAES_V2
"""The released models by name."""


def list_models(pattern: str = "*") -> list[str]:
    """Returns the released models that `load_model` can download, as in "zoo:VideoMAE_B_16x4_224_K400".

    `pattern` is a part of the name, or has the wildcards * and ?; capital letters do not matter.
    """
    return [f"zoo:{name}" for name in select_names(ZOO, pattern)]


def select_names(names: Iterable[str], pattern: str) -> list[str]:
    """Returns the names that contain a pattern, or match it if it has wildcards."""
    wanted = pattern.lower() if any(character in pattern for character in "*?[") else f"*{pattern.lower()}*"
    return [name for name in names if fnmatchcase(name.lower(), wanted)]


def source_problem(source: str) -> str:
    """What is wrong with the name of a checkpoint, checked offline; "" if it is valid.

    Valid are paths (file, Hugging Face folder, run, or of a registered handler), URLs with optional
    `#sha256=<hex>&size=<bytes>`, `zoo:<name>`, `hf:<owner>/<name>[@<revision>]` and `timm:<model>.<tag>`.
    """
    kind, _, name = source.partition(":") if ":" in source else ("", "", source)
    if kind in ("http", "https"):
        return url_problem(source)
    if kind == "zoo":
        near = "".join(f"; the nearest is {name}" for name in get_close_matches(name, ZOO, n=1, cutoff=0.3))
        return "" if name in ZOO else f"expected one of the released models: {', '.join(ZOO)}{near}"
    if kind == "hf":
        return "" if _HUB_NAME.fullmatch(name) else "expected hf:owner/name, such as hf:google/vivit-b-16x2-kinetics400"
    if kind == "timm":  # without the tag, timm's default could change
        return "" if _TIMM_NAME.fullmatch(name) else "expected timm:model.tag, as in vit_base_patch16_224.augreg_in21k"
    if path_manager.is_remote(source):
        return ""
    if "://" in source:
        return f"expected an https:// URL, or a handler for {kind}:// that is registered in timesformer.paths"
    is_there = Path(source).exists()
    return "" if is_there else "expected an existing checkpoint file or folder, an https:// URL, zoo:, hf: or timm:"
