#!/usr/bin/env python3
"""Measures models: size, operations, time and memory (`models`), and speed against Hugging Face's (`speed`).

python tools/benchmark.py models --cfg configs/HMDB/*.yaml [--time] [--markdown docs/models.md]
python tools/benchmark.py speed [--batch-size 1] [--rounds 5]
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.config import load_config
from timesformer.errors import UserError
from timesformer.models import build_model
from timesformer.models.complexity import count_multiply_adds, count_parameters
from timesformer.models.formats import Facts, describe, huggingface_config, to_huggingface
from timesformer.models.vit import TimeSformer
from timesformer.torchvision_import import import_package


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    models = commands.add_parser("models", help="configurations side by side: size, operations, time and memory")
    models.add_argument("--cfg", nargs="+", required=True, metavar="YAML")
    models.add_argument("--markdown", type=Path, metavar="FILE", help="replace the table between the markers in FILE")
    models.add_argument("--time", action="store_true", help="also measure time and memory, each in a fresh process")
    models.add_argument("--batch-size", type=int, default=1, help="clips at once, with --time")
    models.add_argument("--rounds", type=int, default=5, help="times each is run after one warm-up, with --time")
    models.add_argument("--threads", type=int, default=0, help="CPU threads, with --time; 0 takes PyTorch's choice")
    models.add_argument("--cpu", action="store_true", help="do not use the GPU, with --time")

    speed = commands.add_parser("speed", help="forward and training step against Hugging Face, pair by pair")
    speed.add_argument("--batch-size", type=int, default=1)
    speed.add_argument("--frames", type=int, default=8)
    speed.add_argument("--crop", type=int, default=224, help="height and width in pixels")
    speed.add_argument("--rounds", type=int, default=5, help="pairs measured per row, after one warm-up")
    speed.add_argument("--threads", type=int, default=0, help="CPU threads; 0 takes PyTorch's choice")
    args = parser.parse_args()
    try:
        return compare_models(args) if args.command == "models" else compare_speed(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


TABLE_BEGIN, TABLE_END = "<!-- table: begin -->", "<!-- table: end -->"


def compare_models(args: argparse.Namespace) -> int:
    """Prints one row per configuration; with `markdown`, replaces the table between the markers of that file."""
    head = "| configuration | model | attention | clip | classes | parameters (M) | GFLOPs |"
    rule = "|---|---|---|---|---:|---:|---:|"
    lines = [head, rule]
    if args.time:
        lines = [f"{head} forward (ms/clip) | training step (ms/clip) | peak memory (GB) |", f"{rule}---:|---:|---:|"]
        device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
        # What is measured, above the table.
        lines = [measured_how(device, args.batch_size, args.rounds, args.threads), "", *lines]
    print("\n".join(lines))
    for path in args.cfg:
        cfg = load_config(path, check_values=False)
        row = size_columns(path, cfg)
        if args.time:
            row += time_columns(measure_apart(path, cfg, device, args.batch_size, args.rounds, args.threads))
        print(row, flush=True)
        lines.append(row)
    if args.markdown is not None:
        text = args.markdown.read_text()
        if TABLE_BEGIN not in text or TABLE_END not in text:
            raise UserError(f"{args.markdown} has no place for the table; put {TABLE_BEGIN} and {TABLE_END} around it")
        before, after = text.split(TABLE_BEGIN)[0], text.split(TABLE_END)[1]
        args.markdown.write_text("\n".join([f"{before}{TABLE_BEGIN}", *lines, f"{TABLE_END}{after}"]))
    return 0


def size_columns(path: str, cfg: CfgNode) -> str:
    """What a configuration is, and how large; nothing is computed or read."""
    with torch.device("meta"):
        model = build_model(cfg, fresh=True)
    frames, crop = cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE
    operations = count_multiply_adds(model, (1, 3, frames, crop, crop))
    attention = getattr(getattr(model, "model", model), "attention_type", "-")
    return (
        f"| {path} | {cfg.MODEL.MODEL_NAME} | {attention} | "
        f"{frames}x{cfg.DATA.SAMPLING_RATE}, {crop} | {cfg.MODEL.NUM_CLASSES} | "
        f"{count_parameters(model) / 1e6:.2f} | {operations / 1e9:.2f} |"
    )


class Cost(NamedTuple):
    """Seconds of a forward pass and of a training step per clip, medians; and the peak of memory in bytes."""

    forward: float
    training_step: float
    memory: int


def time_columns(cost: Cost) -> str:
    return f" {1e3 * cost.forward:.1f} | {1e3 * cost.training_step:.1f} | {cost.memory / 1e9:.2f} |"


def measured_how(device: torch.device, batch_size: int, rounds: int, threads: int) -> str:
    """One line for above the table."""
    if threads:
        torch.set_num_threads(threads)
    memory = "allocated on the GPU" if device.type == "cuda" else "of the whole process, PyTorch included"
    return (
        f"{describe_machine(device)}; clips at once: {batch_size}, float32, median of {rounds}; forward at "
        f"DATA.TEST_CROP_SIZE, training step (SGD) at DATA.TRAIN_CROP_SIZE, peak of memory {memory}."
    )


def measure_apart(path: str, cfg: CfgNode, device: torch.device, batch_size: int, rounds: int, threads: int) -> Cost:
    """Measures in a process of its own, so that no model's memory or warm caches count for another's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, cfg, device, batch_size, rounds, threads).result()
        except (BrokenProcessPool, torch.cuda.OutOfMemoryError) as error:
            raise UserError(
                f"{path} could not be measured: {type(error).__name__}, which is most often a lack of memory; "
                f"lower --batch-size, which is {batch_size}"
            ) from error


def measure(cfg: CfgNode, device: torch.device, batch_size: int, rounds: int, threads: int) -> Cost:
    """Runs a configuration's model, with random weights and clips, forward and in training."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build_model(cfg, fresh=True).to(device)
    medians = []
    for crop, make in ((cfg.DATA.TEST_CROP_SIZE, forward_of), (cfg.DATA.TRAIN_CROP_SIZE, training_step)):
        run = make(model, torch.randn(batch_size, 3, cfg.DATA.NUM_FRAMES, crop, crop, device=device))
        seconds_of(run, device)
        medians.append(statistics.median(seconds_of(run, device) for _ in range(rounds)) / batch_size)
    return Cost(*medians, peak_memory(device))


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most: on the GPU, or of main memory, with all that PyTorch brings along."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # not getrusage here: on Linux its peak begins with that of the parent process
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


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
        rows = [(f"{name}: forward, fp32", forward_of(theirs, clip), forward_of(ours, clip))]
        if attention_type == "divided_space_time":
            step_theirs, step_ours = training_step(theirs, clip), training_step(ours, clip)
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
    transformers = import_package("transformers", "the comparison")
    torch.manual_seed(0)
    size = {"embed_dim": width, "depth": depth, "num_heads": heads}
    ours = TimeSformer(crop, 16, 400, frames, attention_type, drop_path_rate=0.0, **size)
    with torch.no_grad():
        for parameter in ours.parameters():  # nothing may be zero, or part of the arithmetic would go unchecked
            parameter.add_(torch.randn_like(parameter) * 0.02)
    state = ours.model.state_dict()
    description = describe(state, Facts(), num_heads=heads, num_frames=frames)
    config = transformers.TimesformerConfig.from_dict(huggingface_config(description))
    theirs = transformers.TimesformerForVideoClassification(config)
    theirs.load_state_dict(to_huggingface(state, description))
    return ours.to(device), theirs.to(device)


def logits_of(model: nn.Module, clip: Tensor) -> Tensor:
    """Logits for clips [batch, channels, frames, height, width], of Hugging Face's models too."""
    return model(clip.transpose(1, 2)).logits if hasattr(model, "config") else model(clip)


@torch.no_grad()
def largest_difference(ours: nn.Module, theirs: nn.Module, clip: Tensor) -> float:
    return (logits_of(ours.eval(), clip) - logits_of(theirs.eval(), clip)).abs().max().item()


def forward_of(model: nn.Module, clip: Tensor) -> Callable[[], None]:
    """A forward pass in evaluation mode."""

    def run() -> None:
        model.eval()
        with torch.inference_mode():
            logits_of(model, clip)

    return run


def training_step(model: nn.Module, clip: Tensor, mixed_precision: str = "off") -> Callable[[], None]:
    """A step of SGD with momentum: forward, cross entropy, backward, update."""
    labels = torch.zeros(len(clip), dtype=torch.long, device=clip.device)
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
    seconds_of(first, device), seconds_of(second, device)
    return [(seconds_of(first, device), seconds_of(second, device)) for _ in range(rounds)]


def seconds_of(run: Callable[[], None], device: torch.device) -> float:
    """Seconds until `run` is done, on the GPU too."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


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
