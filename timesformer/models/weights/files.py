"""Files that weights come in, read as data: nothing in them is ever run."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from timesformer.errors import UserError, shorten
from timesformer.fetch import is_web_page
from timesformer.runtime.run_folder import BEST, CHECKPOINTS

HUB_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What a folder of the Hugging Face hub calls its weights, the one to prefer first."""
_PROCESSORS = (
    ("processor_config.json", "video_processor"),
    ("video_preprocessor_config.json", ""),
    ("preprocessor_config.json", ""),
    ("processor_config.json", "image_processor"),
)
"""Where such a folder says how clips are prepared: file and, if any, key in it, in the order of transformers."""
HUB_CONFIGS = ("config.json", *sorted({name for name, _ in _PROCESSORS}))
"""The files of such a folder that say what tensors do not."""


class CheckpointError(UserError):
    """A file that is no checkpoint, or one whose weights do not belong to the model."""


def has_hub_weights(folder: Path) -> bool:
    """Whether a folder has the layout of the Hugging Face hub."""
    return any((folder / name).is_file() for name in HUB_WEIGHTS)


def read_weights(path: Path) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Reads a file, or a folder in the layout of the Hugging Face hub; what it is shows in its bytes, not in its name.

    Args:
        path: a file of `torch.save` (any age), a safetensors file, the index of a model in several such files, or a
            folder with one of `HUB_WEIGHTS` and, for what tensors do not say, `HUB_CONFIGS`.

    Returns:
        The content (tensors on the CPU), and of the folder `config`, the content of its `config.json`, and
        `preprocessor`, what it says about the preparation of clips; each only where there is one.

    Raises:
        CheckpointError: if there is nothing to read, or it is something else, damaged, or more than data.
    """
    if path.is_dir():
        file = next((path / name for name in HUB_WEIGHTS if (path / name).is_file()), None)
        if file is None:
            found = shorten(sorted(entry.name for entry in path.iterdir())) or "nothing"
            raise CheckpointError(
                f"{path} is a folder without weights: expected one of {', '.join(HUB_WEIGHTS)}, or of a run "
                f"{CHECKPOINTS}/{BEST} or {CHECKPOINTS}/checkpoint_epoch_NNNNN.pyth, found {found}. Name a file"
            )
        path = file
    content = _read_file(path)
    if path.name not in HUB_WEIGHTS:
        return content, {}
    files = {name: _read_json(path.with_name(name)) for name in HUB_CONFIGS if path.with_name(name).is_file()}
    found = {"config": files["config.json"]} if "config.json" in files else {}
    for name, key in _PROCESSORS:
        said = files.get(name, {})
        said = said.get(key) if key else said
        if isinstance(said, dict) and said:
            return content, found | {"preprocessor": said}
    return content, found


def _read_file(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error.strerror}; check the path") from error
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes), expected a checkpoint; copy or download it again")
    if is_web_page(head):
        raise CheckpointError(
            f"{path} is a web page, not a checkpoint: the server answered with a login, a warning or an error; open "
            "the address in a browser to see which, and download the file itself"
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a pointer of Git LFS that stands for the checkpoint; fetch the checkpoint with `git lfs pull` "
            "in its repository, or download the file itself"
        )
    if head[5:9] == b"\0\0\0{":  # eight bytes of a length that is no terabyte, and a header in JSON
        return _read_safetensors(path)
    if head.lstrip().startswith(b"{"):
        return _read_shards(path)
    return _read_pickle(path, head)


def _read_pickle(path: Path, head: bytes) -> Any:
    try:
        with path.open("rb") as file:  # given the path, torch would go by its ending
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the broken bytes lead to, KeyError and OSError included
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and (refused or head.startswith(b"\x80")):
            named = f" ({refused[1]})" if refused else ""
            problem = f"holds more than tensors and plain values{named}, which could run code; it was refused and "
            problem += "nothing in it was run. Save the state dict alone, or use another checkpoint"
        elif head.startswith((b"PK", b"\x80")):
            problem = "is damaged or cut short; copy or download it again"
        else:
            problem = (
                f"is not a checkpoint (it begins with {head[:16]!r}); expected a file of torch.save or safetensors"
            )
        raise CheckpointError(f"{path} {problem}") from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            more = {key: _plain(text) for key, text in (file.metadata() or {}).items()}
            return {**more, "model_state": state}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error}); copy or download it again") from error


def _plain(text: str) -> Any:
    """A value that had to become text to go along; text that is no JSON, such as YAML, stays as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_shards(path: Path) -> dict[str, Any]:
    """The weights in the files that an index names, all of which must lie beside it."""
    places = _read_json(path).get("weight_map")
    if not isinstance(places, dict):
        raise CheckpointError(
            f"{path} is JSON without weight_map, so no index of weights; give the folder, or the file with the weights"
        )
    state: dict[str, Any] = {}
    for name in sorted(set(map(str, places.values()))):
        shard = path.parent / name
        if Path(name).name != name or not shard.is_file():
            raise CheckpointError(f"{path} names {name}, which is not beside it; download the whole folder")
        content = _read_file(shard)
        state |= content.get("model_state", content) if isinstance(content, dict) else {}
    if missing := [name for name in places if name not in state]:
        raise CheckpointError(f"{path} names {len(missing)} tensors that its files lack, such as {missing[0]}")
    return {"model_state": state}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}; copy or download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected names with values")
    return content
