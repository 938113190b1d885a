"""Measures models, training, the way from files to clips, and checkpoints; prints Markdown tables."""

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from timesformer.arguments import Parser, as_path
from timesformer.commands.command import run_command
from timesformer.runtime.resource_limits import available_cores

PRECISIONS = ["fp32", "bf16"]
COMMANDS = {
    "models": "parameters, operations, time and memory of configurations",
    "train": "training and inference: this project, original, Hugging Face",
    "data": "decoding, cropping and loading of generated clips",
    "opening": "opening long videos, and reading a clip from their middle",
    "timeline": "reading the windows of long videos in one pass, and each alone",
    "gpu-memory": "GPU memory of a training step, computed without a GPU",
    "memory": "memory of a DataLoader worker over many clips",
    "lists": "time and memory to open the list of a large dataset",
    "checkpoint": "writing, checking and loading checkpoints",
}
OPTIONS = (  # commands, option, default value or arguments of `add_argument`, help
    (" ".join(COMMANDS), "--markdown", {"type": as_path, "metavar": "FILE"}, "replace the tables in this page"),
    ("models train data opening timeline checkpoint", "--rounds", 5, "measurements, in turn, after a warm-up"),
    ("models train", "--batch-size", 1, ""),
    ("models train", "--threads", 0, "CPU threads; 0: PyTorch's choice, 1: measure processor time"),
    ("models gpu-memory", "--cfg", {"type": as_path, "nargs": "+", "required": True}, ""),
    ("gpu-memory", "--batch-sizes", {"type": int, "nargs": "+", "default": [1, 4, 8, 16]}, "clips on a GPU"),
    ("models", "--time", False, "also measure time and memory, each model in a fresh process"),
    ("train", "--frames", 8, ""),
    ("train", "--crop", 224, "height and width in pixels"),
    ("train", "--attention", "divided_space_time", "TIMESFORMER.ATTENTION_TYPE; joint has no original"),
    ("train gpu-memory", "--precision", {"nargs": "+", "choices": PRECISIONS, "default": PRECISIONS}, ""),
    ("train", "--compile", False, "also this project's model compiled"),
    ("train", "--recompute", "none", "also with this MODEL.ACT_CHECKPOINT"),
    ("train", "--memory", False, "also measure memory, each in a fresh process"),
    ("train", "--data", False, "train on generated clips, and measure the wait for them"),
    ("train", "--workers", available_cores(), "DataLoader workers, with --data"),
    ("data opening", "--videos", {"type": as_path, "nargs": "+", "default": []}, "more files or folders of frames"),
    ("opening", "--hours", 3.0, "length of the generated videos"),
    ("timeline", "--videos", {"type": as_path, "nargs": "+", "required": True}, ""),
    ("data", "--starts", 5, "clips read of each file in a round"),
    ("data", "--workers", {"type": int, "nargs": "+", "default": [0, 1, available_cores()]}, "DataLoader workers"),
    ("data", "--clips", 64, "clips loaded of each file in a round"),
    ("memory", "--clips", 20_000, ""),
    ("memory", "--files", 200, "number of small videos"),
    ("lists", "--clips", 1_000_000, ""),
    ("lists checkpoint", "--folder", {"type": as_path}, "on the disk to measure (default: that of temporary files)"),
)


def measure(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Iterable[str]]]:
    """Names of the marks in a page, and lines."""
    import torch

    from timesformer.benchmarks import gpu_memory, loading, models, opening, readers, timelines, training
    from timesformer.benchmarks.generated_clips import RECIPES, make_clip, small_recipes
    from timesformer.config import get_cfg

    match args.command:
        case "models":
            yield "table", models.model_table(args.cfg, args.time, args.batch_size, args.rounds, args.threads)
        case "train":
            size = training.Size(args.batch_size, args.frames, args.crop, args.attention)
            if args.data:
                torch.set_num_threads(args.threads or torch.get_num_threads())
                file, settings = make_clip(folder, RECIPES[0]), (args.workers, args.rounds, args.precision[-1])
                yield "train data", training.data_lines(size, file, folder / "set", *settings)
            else:
                rows = training.contenders(args.precision, args.compile, args.recompute, args.attention)
                yield "train", training.training_table(size, rows, args.rounds, args.threads, args.memory)
        case "data":
            made = {recipe.title: make_clip(folder, recipe) for recipe in RECIPES}
            files = {**made, **{str(path): path for path in args.videos}}
            yield "readers", readers.reader_table(files, args.rounds, args.starts)
            yield "crops", readers.crop_table(5 * args.rounds)
            yield "loading", loading.loader_table(made, folder / "sets", args.workers, args.rounds, args.clips)
        case "opening":
            files = {**opening.make_long_videos(folder, args.hours), **{str(path): path for path in args.videos}}
            yield "opening", opening.opening_table(files, args.rounds)
        case "timeline":
            yield "timeline", timelines.timeline_table(args.videos, args.rounds)
        case "gpu-memory":
            yield "gpu-memory", gpu_memory.gpu_memory_table(args.cfg, args.batch_sizes, args.precision)
        case "memory":
            paths = [make_clip(folder, recipe, seed) for seed, recipe in enumerate(small_recipes(args.files))]
            yield "memory", loading.memory_table(paths, folder / "set", args.clips)
        case "lists":
            yield "lists", loading.list_table(folder, args.clips)
        case "checkpoint":
            cfg = get_cfg()
            cfg.OUTPUT_DIR = str(folder)
            yield "checkpoint", models.checkpoint_table(cfg, args.rounds)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, description in COMMANDS.items():
        command = commands.add_parser(name, help=description)
        for names, option, value, text in OPTIONS:
            if name in names.split():
                given = value if isinstance(value, dict) else {"type": type(value), "default": value}
                command.add_argument(option, help=text, **({"action": "store_true"} if value is False else given))
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    return make_parser().parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    return run_command(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    from timesformer.benchmarks.tables import show

    with tempfile.TemporaryDirectory(prefix="benchmark", dir=getattr(args, "folder", None)) as folder:
        for mark, lines in measure(args, Path(folder)):
            show(lines, args.markdown, mark)
    return 0
