#!/usr/bin/env python3
"""Measures models: size and operations (`models`), and speed against Hugging Face's TimeSformer (`speed`).

python tools/benchmark.py models --cfg configs/HMDB/*.yaml [--markdown docs/models.md]
python tools/benchmark.py speed [--batch-size 1] [--rounds 5]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from timesformer.config import load_config
from timesformer.errors import UserError
from timesformer.models import build_model
from timesformer.models.complexity import count_multiply_adds, count_parameters
from timesformer.models.vit import TimeSformer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    models = commands.add_parser("models", help="table of parameters and multiply-adds of configurations")
    models.add_argument("--cfg", nargs="+", required=True, metavar="YAML")
    models.add_argument("--markdown", type=Path, metavar="FILE", help="replace the table between the markers in FILE")

    speed = commands.add_parser("speed", help="forward and training step against Hugging Face, pair by pair")
    speed.add_argument("--batch-size", type=int, default=1)
    speed.add_argument("--frames", type=int, default=8)
    speed.add_argument("--crop", type=int, default=224, help="height and width in pixels")
    speed.add_argument("--rounds", type=int, default=5, help="pairs measured per row, after one warm-up")
    speed.add_argument("--threads", type=int, default=0, help="CPU threads; 0 takes PyTorch's choice")
    args = parser.parse_args()
    try:
        return compare_models(args.cfg, args.markdown) if args.command == "models" else compare_speed(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


TABLE_BEGIN, TABLE_END = "<!-- table: begin -->", "<!-- table: end -->"


def compare_models(configs: list[str], markdown: Path | None) -> int:
    """Prints one row per configuration; with `markdown`, replaces the table between the markers of that file."""
    rows = ["| configuration | model | attention | clip | classes | parameters (M) | GFLOPs |"]
    rows.append("|---|---|---|---|---:|---:|---:|")
    for path in configs:
        cfg = load_config(path, check_values=False)
        with torch.device("meta"):
            model = build_model(cfg)
        frames, crop = cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE
        operations = count_multiply_adds(model, (1, 3, frames, crop, crop))
        rows.append(
            f"| {path} | {cfg.MODEL.MODEL_NAME} | {cfg.TIMESFORMER.ATTENTION_TYPE} | "
            f"{frames}x{cfg.DATA.SAMPLING_RATE}, {crop} | {cfg.MODEL.NUM_CLASSES} | "
            f"{count_parameters(model) / 1e6:.2f} | {operations / 1e9:.2f} |"
        )
    print("\n".join(rows))
    if markdown is not None:
        text = markdown.read_text()
        if TABLE_BEGIN not in text or TABLE_END not in text:
            raise UserError(f"{markdown} has no place for the table; put {TABLE_BEGIN} and {TABLE_END} around it")
        before, after = text.split(TABLE_BEGIN)[0], text.split(TABLE_END)[1]
        markdown.write_text("\n".join([f"{before}{TABLE_BEGIN}", *rows, f"{TABLE_END}{after}"]))
    return 0


def compare_speed(args: argparse.Namespace) -> int:
    """Times this project and Hugging Face's model in turn on the same weights, and prints the ratios."""
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(describe_machine(device))
    clips = f"{args.batch_size} x {args.frames} frames x {args.crop} px"
    print(f"clips: {clips}, base model, 400 classes; {args.rounds} pairs\n")
    print("| what | Hugging Face (s) | this project (s) | ratio | lowest to highest | largest difference of logits |")
    print("|---|---:|---:|---:|---|---:|")
    for attention_type in ("divided_space_time", "joint_space_time"):
        ours, theirs = model_pair(attention_type, args.frames, args.crop, device)
        clip = torch.randn(args.batch_size, 3, args.frames, args.crop, args.crop, device=device)
        difference = largest_difference(ours, theirs, clip)
        name = attention_type.split("_")[0]
        rows = [(f"{name}: forward, fp32", partial(forward, theirs, clip), partial(forward, ours, clip))]
        if attention_type == "divided_space_time":
            step_theirs, step_ours = training_step(theirs, clip, "off"), training_step(ours, clip, "off")
            step_theirs_bf16, step_ours_bf16 = training_step(theirs, clip, "bf16"), training_step(ours, clip, "bf16")
            rows += [
                (f"{name}: training step, fp32", step_theirs, step_ours),
                (f"{name}: training step, bf16 against fp32", step_theirs, step_ours_bf16),
                (f"{name}: training step, bf16 against bf16", step_theirs_bf16, step_ours_bf16),
            ]
        for what, run_theirs, run_ours in rows:
            pairs = time_in_pairs(run_theirs, run_ours, args.rounds, device)
            ratios = sorted(theirs_s / ours_s for theirs_s, ours_s in pairs)
            theirs_s, ours_s = (statistics.median(times) for times in zip(*pairs, strict=True))
            print(
                f"| {what} | {theirs_s:.3f} | {ours_s:.3f} | {statistics.median(ratios):.2f} | "
                f"{ratios[0]:.2f} to {ratios[-1]:.2f} | {difference:.1e} |",
                flush=True,
            )
    return 0


def model_pair(
    attention_type: str,
    frames: int,
    crop: int,
    device: torch.device,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
) -> tuple[nn.Module, nn.Module]:
    """This project's model and Hugging Face's with the same random weights; the base model by default."""
    try:
        from transformers import TimesformerConfig, TimesformerForVideoClassification
    except ImportError as error:
        raise UserError(f"the comparison needs the package transformers ({error}); pip install transformers") from error
    torch.manual_seed(0)
    size = {"embed_dim": width, "depth": depth, "num_heads": heads}
    ours = TimeSformer(crop, 16, 400, frames, attention_type, drop_path_rate=0.0, **size)
    with torch.no_grad():
        for parameter in ours.parameters():  # nothing may be zero, or part of the arithmetic would go unchecked
            parameter.add_(torch.randn_like(parameter) * 0.02)
    config = TimesformerConfig(
        image_size=crop,
        num_frames=frames,
        num_labels=400,
        attention_type=attention_type,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    theirs = TimesformerForVideoClassification(config)
    theirs.load_state_dict({hugging_face_name(name): value for name, value in ours.model.state_dict().items()})
    return ours.to(device), theirs.to(device)


def hugging_face_name(name: str) -> str:
    """The name that Hugging Face's TimeSformer gives to a parameter of ours."""
    head, _, rest = name.partition(".")
    outer = {
        "cls_token": "timesformer.embeddings.cls_token",
        "pos_embed": "timesformer.embeddings.position_embeddings",
        "time_embed": "timesformer.embeddings.time_embeddings",
        "patch_embed": "timesformer.embeddings.patch_embeddings.projection",
        "norm": "timesformer.layernorm",
        "head": "classifier",
    }
    if head != "blocks":
        return ".".join([outer[head], *rest.split(".")[-1:]]) if rest else outer[head]
    index, inner = rest.split(".", 1)
    layer = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.qkv": "attention.attention.qkv",
        "attn.proj": "attention.output.dense",
        "temporal_norm1": "temporal_layernorm",
        "temporal_attn.qkv": "temporal_attention.attention.qkv",
        "temporal_attn.proj": "temporal_attention.output.dense",
        "temporal_fc": "temporal_dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    module, kind = inner.rsplit(".", 1)
    return f"timesformer.encoder.layer.{index}.{layer[module]}.{kind}"


def logits_of(model: nn.Module, clip: Tensor) -> Tensor:
    """Logits of either model for clips [batch, channels, frames, height, width]."""
    return model(clip) if isinstance(model, TimeSformer) else model(clip.transpose(1, 2)).logits


@torch.no_grad()
def largest_difference(ours: nn.Module, theirs: nn.Module, clip: Tensor) -> float:
    return (logits_of(ours.eval(), clip) - logits_of(theirs.eval(), clip)).abs().max().item()


def forward(model: nn.Module, clip: Tensor) -> None:
    model.eval()
    with torch.inference_mode():
        logits_of(model, clip)


def training_step(model: nn.Module, clip: Tensor, mixed_precision: str) -> Callable[[], None]:
    """A step of SGD with momentum: forward, cross entropy, backward, update."""
    labels = torch.arange(len(clip), device=clip.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def step() -> None:
        model.train()
        with torch.autocast(clip.device.type, torch.bfloat16, enabled=mixed_precision == "bf16"):
            logits = logits_of(model, clip)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def time_in_pairs(
    first: Callable[[], None], second: Callable[[], None], rounds: int, device: torch.device
) -> list[tuple[float, float]]:
    """Seconds of each, run in turn (first, second, first, ...) so that a drift of the machine meets both alike."""

    def seconds(run: Callable[[], None]) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds(first), seconds(second)
    return [(seconds(first), seconds(second)) for _ in range(rounds)]


def describe_machine(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {platform.python_version()}"
    names = [line.split(":")[1].strip() for line in cpu_lines() if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    return (
        f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"
    )


def cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
