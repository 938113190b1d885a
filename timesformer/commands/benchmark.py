"""Measures models, training, the way from files to clips, and checkpoints; prints Markdown tables."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from timesformer.arguments import Parser, as_path, as_source, not_negative
from timesformer.commands.command import run_command
from timesformer.commands.main import COMMANDS as ALL_COMMANDS
from timesformer.runtime.resource_limits import available_cores

PRECISIONS = ["fp32", "bf16"]
GPU_PARTS = ["tests", "training-8", "training-32", "long", "large", "inference", "demo", "kernels", "profile"]
COMMANDS = {
    "models": "parameters, operations, time and memory of configurations",
    "train": "training and inference: this project, original, Hugging Face",
    "data": "decoding and cropping of generated clips",
    "loading": "loading training clips with workers: this project, decord, Hugging Face",
    "startup": "time to the help of commands, the first prediction and the first training step",
    "shards": "clips from tar shards, compared with single files",
    "opening": "opening long videos, and reading a clip from their middle",
    "timeline": "reading the windows of long videos in one pass, and each alone",
    "export": "time, size and error of exported models, compared with PyTorch and Hugging Face",
    "serve": "requests per second and latency of the HTTP service",
    "gpu": "tests, speed, memory and accuracy on one GPU, within minutes",
    "gpu-memory": "GPU memory of a training step, computed without a GPU",
    "growth": "a training step with more frames, pixels and processes",
    "memory": "memory of a DataLoader worker over many clips",
    "lists": "time and memory to open the list of a large dataset",
    "checkpoint": "writing, checking and loading checkpoints",
}
OPTIONS = (  # commands, option, default value or arguments of `add_argument`, help
    (" ".join(COMMANDS), "--markdown", {"type": as_path, "metavar": "FILE"}, "replace the tables in this page"),
    (
        "models train data loading shards startup opening timeline checkpoint serve export growth",
        "--rounds",
        5,
        "measurements of each row, in turn",
    ),
    ("models train", "--batch-size", 1, ""),
    ("models train export", "--threads", 0, "CPU threads; 0: PyTorch's choice, 1: measure processor time"),
    ("models gpu-memory", "--cfg", {"type": as_path, "nargs": "+", "required": True}, ""),
    ("gpu-memory", "--batch-sizes", {"type": int, "nargs": "+", "default": [1, 4, 8, 16]}, "clips on a GPU"),
    ("models", "--time", False, "also measure time and memory, each model in a fresh process"),
    ("train export", "--frames", 8, ""),
    ("export", "--depth", 12, "number of blocks"),
    ("export", "--nncf", False, "also int8 by NNCF, which takes minutes for the base model"),
    ("train export", "--crop", 224, "height and width in pixels"),
    ("train", "--attention", "divided_space_time", "TIMESFORMER.ATTENTION_TYPE; joint has no original"),
    ("train gpu-memory", "--precision", {"nargs": "+", "choices": PRECISIONS, "default": PRECISIONS}, ""),
    ("train", "--compile", False, "also this project's model compiled"),
    ("train", "--recompute", "none", "also with this MODEL.ACT_CHECKPOINT"),
    ("train", "--memory", False, "also measure memory, each in a fresh process"),
    ("train", "--data", False, "train on generated clips, and measure the wait for them"),
    ("train", "--workers", available_cores(), "DataLoader workers, with --data"),
    ("gpu", "--device", {"choices": ["cuda", "cpu"], "default": "cuda"}, ""),
    ("gpu", "--tiny", False, "tiny models and clips, to try the script; with --device cpu without a GPU"),
    ("gpu", "--original", {"type": as_path, "metavar": "FOLDER"}, "a clone of facebookresearch/TimeSformer to measure"),
    ("gpu", "--output", {"type": as_path, "default": Path("output/gpu")}, "folder for gpu.json, gpu.md and logs"),
    ("gpu", "--parts", {"nargs": "+", "default": GPU_PARTS, "choices": GPU_PARTS}, "default: all, in this order"),
    ("gpu", "--minutes", 9.0, "after these, running parts are killed"),
    ("growth", "--frames", {"type": int, "nargs": "+", "default": [8, 16, 32, 96]}, ""),
    ("growth", "--crops", {"type": int, "nargs": "+", "default": [112, 224, 448]}, "height and width in pixels"),
    ("growth", "--width", 192, "of the model's tokens, a multiple of 64"),
    ("growth", "--processes", {"type": int, "nargs": "+", "default": [1, 2, 4]}, "that train together"),
    ("growth", "--step-seconds", 0.0, "of a step of 8 clips on your GPU; 0: that of 400 TFLOP/s"),
    ("data opening", "--videos", {"type": as_path, "nargs": "+", "default": []}, "more files or folders of frames"),
    ("loading", "--videos", {"type": as_path, "nargs": "+", "default": []}, "more files, and folders with videos"),
    ("opening", "--hours", 3.0, "length of the generated videos"),
    ("timeline serve", "--videos", {"type": as_path, "nargs": "+", "required": True}, ""),
    ("serve", "--checkpoint", {"type": as_source, "required": True}, ""),
    ("serve", "--batch-sizes", {"type": int, "nargs": "+", "default": [32, 1]}, "a service for each"),
    ("serve", "--clients", 32, "each sends a request when its last one is answered"),
    ("serve", "--requests", 128, "in a round"),
    ("data", "--starts", 5, "clips read of each file in a round"),
    ("loading", "--workers", {"type": int, "nargs": "+", "default": [0, 1, 2, 4]}, "DataLoader workers"),
    ("loading shards", "--clips", 64, "clips loaded of each file or folder in a round"),
    ("loading", "--sampling-rate", 8, "distance of the frames of a clip"),
    ("startup", "--help-of", {"nargs": "+", "default": [*ALL_COMMANDS]}, "commands whose help is shown; default: all"),
    ("startup", "--before", {"type": as_path, "metavar": "CHECKOUT"}, "another checkout to compare with"),
    ("memory", "--clips", 20_000, ""),
    ("memory", "--files", 200, "number of small videos"),
    ("lists", "--clips", 1_000_000, ""),
    ("lists checkpoint", "--folder", {"type": as_path}, "on the disk to measure (default: that of temporary files)"),
)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, description in COMMANDS.items():
        command = commands.add_parser(name, help=description)
        for names, option, value, text in OPTIONS:
            if name in names.split():
                kind = not_negative if isinstance(value, float) else type(value)
                given = value if isinstance(value, dict) else {"type": kind, "default": value}
                command.add_argument(option, help=text, **({"action": "store_true"} if value is False else given))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(arguments)
    return run_command(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    from timesformer.benchmarks.tables import show

    if args.command == "gpu":
        from timesformer.gpu_benchmark.parts import measure
    else:
        from timesformer.benchmarks.measuring import measure

    with tempfile.TemporaryDirectory(prefix="benchmark", dir=getattr(args, "folder", None)) as folder:
        for mark, lines in measure(args, Path(folder)):
            show(lines, args.markdown, mark)
    return 0
