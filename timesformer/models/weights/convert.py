"""Converting checkpoints: for this project and the original, for Hugging Face, or as safetensors."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from timesformer.atomic import report_write_errors, write_atomically, write_text_atomically
from timesformer.config.load import load_for_use
from timesformer.errors import UserError
from timesformer.models.weights.files import CheckpointError
from timesformer.models.weights.formats import check_linear_head, describe, to_huggingface
from timesformer.models.weights.huggingface import (
    adapt_to_transformers,
    assumed_options,
    complete_options,
    config_json,
    network_files,
    preprocessor_json,
)
from timesformer.models.weights.loading import Checkpoint, read_checkpoint

logger = logging.getLogger(__name__)

_KEPT = ("epoch", "cfg", "progress", "network_config", "calibration")


def convert(
    source: str, target: Path, to: str, num_heads: int | None = None, num_frames: int | None = None, weights: str = ""
) -> None:
    """Reads a checkpoint, see `read_checkpoint`, and writes it in another format; logs what was left out or assumed.

    `to` is "pyth", "safetensors" or "hf", for which `target` is a folder, and `num_heads` and `num_frames` are needed
    if the source lacks them. Raises UserError, also if the target exists.
    """
    if target.exists():
        raise UserError(f"{target} exists; remove it, or choose another name")
    for option, value in (("--num-heads", num_heads), ("--num-frames", num_frames)):
        if value is not None and (to != "hf" or value < 1):
            raise UserError(f"{option} is {value}, expected 1 or more, and --to hf")
    checkpoint = read_checkpoint(source, weights)
    _warn(source, checkpoint.notes)
    with report_write_errors(target):
        (target if to == "hf" else target.parent).mkdir(parents=True, exist_ok=True)
    if to == "hf" and "network_config" in checkpoint.rest:
        _write_network(source, checkpoint, target)
        kept = {"cfg", "class_names", "network_config"}
    elif to == "hf":
        _write_huggingface(source, checkpoint, target, num_heads, num_frames)
        kept = {"cfg", "class_names"}
    else:
        kept = {key: checkpoint.rest[key] for key in _KEPT if key in checkpoint.rest}
        if checkpoint.metadata.class_names and "progress" not in kept:
            kept["class_names"] = list(checkpoint.metadata.class_names)
        state = {f"model.{name}": tensor.contiguous() for name, tensor in checkpoint.state.items()}
        if to == "pyth":
            _write(target, lambda file: torch.save({"model_state": state, **kept}, file))
        else:
            text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in kept.items()}
            _write(target, lambda file: file.write(save(state, {"format": "pt", **text})))
        _warn(source, checkpoint.assumed)
    logger.info("%d tensors of %s written to %s", len(checkpoint.state), source, target)
    if left := sorted(set(checkpoint.rest) - set(kept) - {"format", "config", "preprocessor"}):
        logger.info("left out: %s", ", ".join(left))


def _write_huggingface(
    source: str, checkpoint: Checkpoint, folder: Path, num_heads: int | None, num_frames: int | None
) -> None:
    try:
        model = describe(checkpoint.state, checkpoint.metadata, num_heads, num_frames)
        if isinstance(text := checkpoint.rest.get("cfg"), str):
            options, assumed = complete_options(yaml.safe_load(text) or {}, model), checkpoint.assumed
        else:
            options, assumed = assumed_options(model)
        cfg, notes = load_for_use(yaml.safe_dump(options), f"configuration in {source}")
        state, model, changes = adapt_to_transformers(checkpoint.state, model, cfg)
        state = to_huggingface(state, model)
    except UserError as error:
        folder.rmdir()
        raise CheckpointError(f"{source} cannot be written for Hugging Face: {error}") from error
    changes.extend(model.guesses)
    if model.attention_type == "space_only":
        changes.append("transformers gives logits for each frame of a space-only model; take their mean")
    _warn(source, (*assumed, *notes, *changes))
    files = {
        "config.json": config_json(model, cfg, options),
        "preprocessor_config.json": preprocessor_json(model.model, cfg),
    }
    _write_folder(folder, files, state)


def _write_network(source: str, checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a network of transformers, which keeps its names and its configuration."""
    try:
        check_linear_head(checkpoint.state)
        cfg, notes = load_for_use(checkpoint.rest["cfg"], f"configuration in {source}")
        files = network_files(checkpoint.rest["network_config"], cfg, checkpoint.metadata.class_names)
    except UserError as error:
        folder.rmdir()
        raise CheckpointError(f"{source} cannot be written for Hugging Face: {error}") from error
    _warn(source, notes)
    _write_folder(folder, files, checkpoint.state)


def _write_folder(folder: Path, files: dict[str, dict[str, Any]], state: dict[str, Tensor]) -> None:
    for name, content in files.items():
        write_text_atomically(folder / name, json.dumps(content, indent=2) + "\n")
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    _write(folder / "model.safetensors", lambda file: file.write(save(state, {"format": "pt"})))


def _warn(source: str, lines: Any) -> None:
    for line in lines:
        logger.warning("%s: %s", source, line)


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    with report_write_errors(path):
        write_atomically(path, write)
