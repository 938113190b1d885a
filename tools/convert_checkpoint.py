#!/usr/bin/env python3
"""Writes a checkpoint of any kind as another: for this project and the original, for Hugging Face, or as safetensors.

python tools/convert_checkpoint.py TimeSformer_divST_8x32_224_K400.pyth timesformer_k400 --to hf
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import yaml
from safetensors.torch import save

from timesformer.arguments import as_path, as_source
from timesformer.atomic import report_write_errors, write_atomically, write_text_atomically
from timesformer.config.load import load_for_use
from timesformer.errors import UserError
from timesformer.models.weights.formats import describe, to_huggingface
from timesformer.models.weights.huggingface import (
    as_fed_by_transformers,
    assumed_options,
    completed,
    config_json,
    preprocessor_json,
)
from timesformer.models.weights.loading import Checkpoint, CheckpointError, read_checkpoint

logger = logging.getLogger("timesformer.tools.convert_checkpoint")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Writes a checkpoint of any kind as another.")
    parser.add_argument(
        "source",
        type=as_source,
        metavar="IN",
        help="file, folder of Hugging Face or of a run, https:// URL, zoo:NAME, hf:OWNER/NAME, timm:NAME",
    )
    parser.add_argument("target", metavar="OUT", type=as_path, help="file to write; with --to hf, a folder")
    parser.add_argument("--to", choices=("pyth", "hf", "safetensors"), required=True, help="what to write")
    parser.add_argument(
        "--num-heads", type=int, metavar="N", help="heads of an attention, for --to hf; tensors do not tell"
    )
    parser.add_argument("--num-frames", type=int, metavar="N", help="frames of a clip, for --to hf, if IN does not say")
    parser.add_argument(
        "--weights", metavar="KEY", default="", help="which of several in IN, such as model_ema for their average"
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        convert(args.source, args.target, args.to, args.num_heads, args.num_frames, args.weights)
    except UserError as error:
        logger.error("error: %s", error)
        return 2
    return 0


def convert(
    source: str, target: Path, to: str, num_heads: int | None, num_frames: int | None, weights: str = ""
) -> None:
    """Reads, converts and writes; says what was written, and what of it was left out or assumed.

    Raises:
        UserError: if the source cannot be read or has no counterpart there, or the target exists or cannot be written.
    """
    if target.exists():
        raise UserError(f"{target} exists already; remove it, or choose another name")
    for option, value in (("--num-heads", num_heads), ("--num-frames", num_frames)):
        if value is not None and (to != "hf" or value < 1):
            raise UserError(f"{option} is {value}, expected 1 or more, and --to hf: other files do not hold it")
    checkpoint = read_checkpoint(source, weights)
    for note in checkpoint.notes:
        logger.warning("%s: %s", source, note)
    with report_write_errors(target):
        (target if to == "hf" else target.parent).mkdir(parents=True, exist_ok=True)
    if to == "hf":
        _write_huggingface(source, checkpoint, target, num_heads, num_frames)
        kept = {"cfg", "class_names"}
    else:
        kept = _kept(checkpoint)
        state = {f"model.{name}": tensor.contiguous() for name, tensor in checkpoint.state.items()}
        if to == "pyth":
            _write(target, lambda file: torch.save({"model_state": state, **kept}, file))
        else:
            text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in kept.items()}
            _write(target, lambda file: file.write(save(state, {"format": "pt", **text})))
        for line in checkpoint.assumed:
            logger.warning("%s: %s", source, line)
    logger.info("%d tensors of %s written to %s", len(checkpoint.state), source, target)
    if left := sorted(set(checkpoint.rest) - set(kept) - {"format", "config", "preprocessor"}):
        logger.info("left out: %s", ", ".join(left))


def _write_huggingface(
    source: str, checkpoint: Checkpoint, folder: Path, num_heads: int | None, num_frames: int | None
) -> None:
    try:
        model = describe(checkpoint.state, checkpoint.facts, num_heads, num_frames)
        if isinstance(text := checkpoint.rest.get("cfg"), str):
            options, assumed = completed(yaml.safe_load(text) or {}, model), checkpoint.assumed
        else:
            options, assumed = assumed_options(model)
        cfg, notes = load_for_use(yaml.safe_dump(options), f"configuration in {source}")
        state, model, changes = as_fed_by_transformers(checkpoint.state, model, cfg)
        state = to_huggingface(state, model)
    except UserError as error:
        folder.rmdir()
        raise CheckpointError(f"{source} cannot be written for Hugging Face: {error}") from error
    for line in (*assumed, *notes, *changes):
        logger.warning("%s: %s", source, line)
    if model.guessed_heads:
        logger.warning(
            "%s does not say how many heads an attention has: %d taken, 64 units each; if that is wrong, so are the "
            "results: give --num-heads",
            source,
            model.num_heads,
        )
    if model.attention_type == "space_only":
        logger.warning(
            "transformers gives logits for each frame of a space-only model, and its pipeline shows those of the first "
            "frame; take their mean over the frames"
        )
    for name, content in (
        ("config.json", config_json(model, cfg, options)),
        ("preprocessor_config.json", preprocessor_json(model, cfg)),
    ):
        write_text_atomically(folder / name, json.dumps(content, indent=2) + "\n")
    _write(folder / "model.safetensors", lambda file: file.write(save(state, {"format": "pt"})))


def _kept(checkpoint: Checkpoint) -> dict[str, Any]:
    """What goes along with the weights: how far training had come, the options, and the names of the classes."""
    kept = {key: checkpoint.rest[key] for key in ("epoch", "cfg", "progress") if key in checkpoint.rest}
    if checkpoint.facts.class_names and "progress" not in kept:
        kept["class_names"] = list(checkpoint.facts.class_names)
    return kept


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    with report_write_errors(path):
        write_atomically(path, write)


if __name__ == "__main__":
    sys.exit(main())
