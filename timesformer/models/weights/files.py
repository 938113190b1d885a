"""Reading files of weights as data: no code in them is run."""

import json
import pickle
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from timesformer.errors import UserError, shorten
from timesformer.fetch import is_web_page
from timesformer.runtime.run_folder import BEST, CHECKPOINTS

HUB_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files of weights in a folder of the Hugging Face hub, in order of preference."""
_PROCESSORS = (
    ("processor_config.json", "video_processor"),
    ("video_preprocessor_config.json", ""),
    ("preprocessor_config.json", ""),
    ("processor_config.json", "image_processor"),
)
"""Its files that describe the preprocessing, and the key in them, in the order of transformers."""
HUB_CONFIGS = ("config.json", *sorted({name for name, _ in _PROCESSORS}))


class CheckpointError(UserError):
    """A file that is not a checkpoint, or whose weights do not fit the model."""


def has_hub_weights(folder: Path) -> bool:
    """Whether a folder has the layout of the Hugging Face hub."""
    return any((folder / name).is_file() for name in HUB_WEIGHTS)


def read_weights(path: Path) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Reads a file of `torch.save` or safetensors, an index of several files, or a folder with one of `HUB_WEIGHTS`.

    Returns the content, with tensors on the CPU; and for a folder `config` (its config.json) and `preprocessor`, each
    if there is one. Raises CheckpointError if the file is missing, damaged, not a checkpoint, or contains code.
    """
    if path.is_dir():
        if not has_hub_weights(path):
            found = shorten(sorted(entry.name for entry in path.iterdir())) or "nothing"
            expected = ", ".join((*HUB_WEIGHTS, f"{CHECKPOINTS}/{BEST}", f"{CHECKPOINTS}/checkpoint_epoch_NNNNN.pyth"))
            raise CheckpointError(f"{path} is a folder without weights: expected one of {expected}, found {found}")
        path = next(path / name for name in HUB_WEIGHTS if (path / name).is_file())
    content = _read_file(path)
    return content, read_hub_configs(path.parent) if path.name in HUB_WEIGHTS else {}


def read_hub_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """`config` (config.json) and `preprocessor` of a folder, each if there is one; CheckpointError if it is damaged."""
    files = {name: _read_json(folder / name) for name in HUB_CONFIGS if (folder / name).is_file()}
    found = {"config": files["config.json"]} if "config.json" in files else {}
    described = ((files.get(name, {}).get(key) if key else files.get(name)) for name, key in _PROCESSORS)
    if preprocessor := next((part for part in described if isinstance(part, dict) and part), None):
        found["preprocessor"] = preprocessor
    return found


def _read_file(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; check the path") from error
    if not head:
        raise CheckpointError(f"{path} is empty, expected a checkpoint; copy or download it again")
    if is_web_page(head):
        raise CheckpointError(f"{path} is a web page, expected a checkpoint; download the file itself")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, expected a checkpoint; run `git lfs pull`")
    if head[5:9] == b"\0\0\0{":  # the length of a header below 1 TB, then the header in JSON
        return _read_safetensors(path)
    if head.lstrip().startswith(b"{"):
        return _read_shards(path)
    return _read_pickle(path, head)


def _read_pickle(path: Path, head: bytes) -> Any:
    try:
        # Training programs often save their arguments as a Namespace, which only holds values.
        # Given a path instead of a file, torch decides by its extension.
        with path.open("rb") as file, torch.serialization.safe_globals([Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise errors of any kind
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and (refused or head.startswith(b"\x80")):
            name = f" ({refused[1]})" if refused else ""
            problem = f"contains more than tensors and plain values{name} and was not loaded; save its state dict alone"
        elif head.startswith((b"PK", b"\x80")):
            problem = "is damaged or incomplete; copy or download it again"
        else:
            problem = f"starts with {head[:16]!r}, expected a file of torch.save or safetensors"
        raise CheckpointError(f"{path} {problem}") from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return {**{key: _from_text(text) for key, text in (file.metadata() or {}).items()}, "model_state": state}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or incomplete ({error}); copy or download it again") from error


def _from_text(text: str) -> Any:
    """A value of safetensors' metadata: JSON, or text such as YAML."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_shards(path: Path) -> dict[str, Any]:
    weight_map = _read_json(path).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{path} has no weight_map, expected an index of weights; give the folder")
    state: dict[str, Any] = {}
    for name in sorted(set(map(str, weight_map.values()))):
        shard = path.parent / name
        if Path(name).name != name or not shard.is_file():
            raise CheckpointError(f"{path} names {name}, which is not in its folder; download the whole folder")
        content = _read_file(shard)
        state |= content.get("model_state", content) if isinstance(content, dict) else {}
    if missing := [name for name in weight_map if name not in state]:
        raise CheckpointError(f"{path}: its files lack {shorten(missing)}; download the whole folder")
    return {"model_state": state}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}; copy or download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} contains a {type(content).__name__}, expected a JSON object")
    return content
