"""Keys of cached features: everything that they depend on, so that no other features are taken for them."""

import hashlib
import importlib.metadata
import inspect
import json
import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

import timesformer
from timesformer.config.differences import affecting
from timesformer.config.options import get_option
from timesformer.datasets.clips import ClipMaker
from timesformer.datasets.manifest import frame_folder, known_video
from timesformer.datasets.records import Records, VideoRecord
from timesformer.datasets.transforms.augmentation import TRANSFORM_REGISTRY
from timesformer.models.parts import head_names, inner_model
from timesformer.models.weights.loading import hash_tensors

FORMAT = 1
"""Version of the files; raise it after any change of the clips or features that no option shows."""

_OF_HEADS = {"MODEL.NUM_CLASSES", "MODEL.DROPOUT_RATE", "MODEL.HEAD", "MODEL.HEAD_WIDTH", "MODEL.HEAD_DEPTH"}
_OF_NO_CLIP = re.compile(
    r"(TRAIN|MODEL|MIXUP|FEATURES|SOLVER|EMA)\.|(RNG_SEED|NUM_SHARDS|GLOBAL_BATCH_SIZE)$|"
    r"DATA\.(MAX_MISSING_FRACTION|BALANCE|ON_UNREADABLE|MAX_UNREADABLE_FRACTION|DECODE_TIMEOUT)$"
)
"""Options of the course of training that do not change training clips; users' own ones may."""
_OF_ROUNDING = ("TRAIN.MIXED_PRECISION", "TRAIN.TF32")


def describe(cfg: CfgNode, model: nn.Module, maker: ClipMaker) -> dict[str, Any]:
    """All that the features of the clips of `maker` depend on, except for the clip: plain values for JSON.

    Heads with the same input share features. So do runs that differ in classes, splits, folds and RNG_SEED, and a
    validation and a test with the same views.
    """
    options = {key: value for key, value in affecting(cfg, "model", "clips").items() if key not in _OF_HEADS}
    options |= {key: get_option(cfg, key) for key in _OF_ROUNDING}
    options["DATA.TRAIN_JITTER_SCALES"] = cfg.DATA.TRAIN_JITTER_SCALES  # the first is the size of a center crop, too
    if maker.training:
        options["FEATURES.SEED"] = cfg.FEATURES.SEED
        options |= {k: v for k, v in affecting(cfg, "training").items() if not _OF_NO_CLIP.match(k)}
    heads = tuple(f"{head}." for head in head_names(model))
    network = inner_model(model)
    tensors = {name: value for name, value in network.state_dict().items() if not name.startswith(heads)}
    return {
        "format": FORMAT,
        "timesformer": timesformer.__version__,
        "backbone": hash_tensors(tensors),
        "network": type(network).__qualname__,
        "network_config": {k: v for k, v in getattr(model, "network_config", {}).items() if "label" not in k},
        "input": "pooled" if cfg.MODEL.HEAD == "linear" else "tokens",
        "views": "augmented" if maker.training else [maker.num_views, maker.num_crops, maker.crop_size],
        "sampler": repr(maker.sampler),
        "dataset": maker.dataset,
        "options": options,
        "other_code": _other_code(type(model), type(network), type(maker.sampler), *_transforms(cfg)),
    }


def digest(value: object) -> str:
    """A hash (32 hexadecimal digits) of plain values."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def view_keys(records: Records, num_views: int) -> list[list[str]]:
    """The keys of the views of each video: its name, known problem, and path, sizes and times of its files."""
    listing = lru_cache(maxsize=8)(_listing)  # clips may share a folder of frames
    keys = []
    for record in records:
        length = known_video(record)[1:]
        clip = [record.name, os.path.abspath(record.path), length, _files(record, listing)]
        clip += [record.problem] if record.problem else []
        keys.append([digest([*clip, view]) for view in range(num_views)])
    return keys


def view_seed(seed: int, name: str, view: int) -> tuple[int, ...]:
    """The seed of a view of a clip, the same in every split and run (FEATURES.SEED)."""
    number = int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
    return seed, number, view


def _files(record: VideoRecord, listing: Any) -> Any:
    """Size and time of a video file, or of all files of a folder of frames; None if there is neither."""
    folder = frame_folder(record.path) or record.path
    try:
        if os.path.isdir(folder):
            return listing(folder)
        found = os.stat(record.path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _listing(folder: str) -> list[list[Any]]:
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    return sorted([name, stat.st_size, stat.st_mtime_ns] for name, stat in found)


def _transforms(cfg: CfgNode) -> list[Any]:
    return [TRANSFORM_REGISTRY.get(name) for name in cfg.DATA.TRANSFORMS]


def _other_code(*objects: Any) -> dict[str, list[str]]:
    """Version of the library and hash of the file of each object that this package does not define."""
    found = {}
    for name in {inspect.getmodule(item).__name__ for item in objects} - {"__main__"}:
        library, file = name.partition(".")[0], getattr(sys.modules[name], "__file__", None)
        if library == "timesformer":
            continue
        try:
            version = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        found[name] = [version, hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest() if file else ""]
    return found
