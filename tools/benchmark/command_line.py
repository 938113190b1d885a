"""Measures models, their speed beside Hugging Face's, the way of the data beside other libraries' readers, checkpoints.

python tools/benchmark.py models --cfg configs/HMDB/*.yaml [--time] [--markdown docs/models.md]
python tools/benchmark.py speed [--batch-size 1] [--rounds 5]
python tools/benchmark.py train [--batch-size 1] [--compile] [--recompute blocks] [--memory]
python tools/benchmark.py train --data [--rounds 20] [--workers 8]
python tools/benchmark.py train --large --batch-size 8
python tools/benchmark.py data [--videos CLIP ...] [--rounds 5] [--markdown docs/performance.md]
python tools/benchmark.py memory [--clips 20000] [--markdown docs/performance.md]
python tools/benchmark.py lists [--clips 1000000] [--markdown docs/performance.md]
python tools/benchmark.py checkpoint [--rounds 3] [--markdown docs/checkpoints.md]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from timesformer.arguments import as_path
from timesformer.errors import UserError
from tools.benchmark import (
    checkpoints,
    cropping,
    decoding,
    lists,
    loading,
    made_clips,
    models,
    readers,
    speed,
    training,
)
from tools.benchmark.tables import show

DATA_TABLES = ("readers", "crops", "loading")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("models", help="configurations side by side: size, operations, time and memory")
    command.set_defaults(run=compare_models)
    command.add_argument("--cfg", type=as_path, nargs="+", required=True, metavar="YAML")
    command.add_argument("--time", action="store_true", help="also measure time and memory, each in a fresh process")
    command.add_argument("--batch-size", type=int, default=1, help="clips at once, with --time")
    command.add_argument("--rounds", type=int, default=5, help="times each is run after one warm-up, with --time")
    command.add_argument("--threads", type=int, default=0, help="CPU threads, with --time; 0 takes PyTorch's choice")
    command.add_argument("--cpu", action="store_true", help="do not use the GPU, with --time")
    takes_a_page(command)

    command = commands.add_parser("speed", help="forward and training step against Hugging Face, pair by pair")
    command.set_defaults(run=compare_speed)
    command.add_argument("--batch-size", type=int, default=1)
    command.add_argument("--frames", type=int, default=8)
    command.add_argument("--crop", type=int, default=224, help="height and width in pixels")
    command.add_argument("--rounds", type=int, default=5, help="pairs measured per row, after one warm-up")
    command.add_argument("--threads", type=int, default=0, help="CPU threads; 0 takes PyTorch's choice")
    takes_a_page(command)

    command = commands.add_parser("train", help="training and inference beside the original's way and Hugging Face's")
    command.set_defaults(run=compare_training)
    command.add_argument("--batch-size", type=int, default=1)
    command.add_argument("--frames", type=int, default=8)
    command.add_argument("--crop", type=int, default=224, help="height and width in pixels")
    command.add_argument("--rounds", type=int, default=5, help="times each is measured, in turn, after one warm-up")
    command.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice, 1: processor time")
    command.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    command.add_argument("--compile", action="store_true", help="also this project's model compiled")
    command.add_argument(
        "--recompute", default="none", metavar="WHICH", help="also with TRAIN.ACTIVATION_CHECKPOINT so"
    )
    command.add_argument("--memory", action="store_true", help="also measure memory, each in a fresh process")
    command.add_argument("--data", action="store_true", help="train on made clips instead, and time the wait for them")
    command.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="loading processes, with --data")
    command.add_argument("--large", action="store_true", help="96 frames, and 448 pixels, in bf16 instead")
    takes_a_page(command)

    command = commands.add_parser("data", help="reading, cropping and loading clips, on files made for it")
    command.set_defaults(run=compare_data)
    command.add_argument("--tables", nargs="+", choices=DATA_TABLES, default=DATA_TABLES, help="which of them")
    command.add_argument(
        "--videos", nargs="+", type=as_path, default=[], metavar="CLIP", help="files or frame folders too"
    )
    command.add_argument("--rounds", type=int, default=5, help="times everything is measured, in turn")
    command.add_argument("--starts", type=int, default=5, help="clips read of each file in a round")
    workers = sorted({0, 1, os.cpu_count() or 1})
    command.add_argument("--workers", type=int, nargs="+", default=workers, help="numbers of loading processes")
    command.add_argument("--clips", type=int, default=64, help="clips loaded of each file in a round")
    takes_a_page(command)

    command = commands.add_parser("memory", help="memory of a loading process over many clips")
    command.set_defaults(run=measure_memory)
    command.add_argument("--clips", type=int, default=20_000)
    command.add_argument("--every", type=int, default=1_000, help="clips from one figure to the next")
    command.add_argument("--files", type=int, default=200, help="small videos to load them from")
    takes_a_page(command)

    command = commands.add_parser("lists", help="time and memory to open the list of a large dataset")
    command.set_defaults(run=measure_lists)
    command.add_argument("--clips", type=int, default=1_000_000)
    command.add_argument(
        "--folder", type=as_path, help="on the disk that is meant; without it, where temporary files are"
    )
    takes_a_page(command)

    command = commands.add_parser("checkpoint", help="writing, checking and loading the base model's checkpoints")
    command.set_defaults(run=measure_checkpoints)
    command.add_argument("--rounds", type=int, default=3, help="times everything is measured")
    command.add_argument(
        "--folder", type=as_path, help="on the disk that is meant; without it, where temporary files are"
    )
    takes_a_page(command)

    args = parser.parse_args()
    try:
        args.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def takes_a_page(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--markdown", type=as_path, metavar="FILE", help="replace the tables between the marks in FILE"
    )


def compare_models(args: argparse.Namespace) -> None:
    table = models.model_table(args.cfg, args.time, args.batch_size, args.rounds, args.threads, not args.cpu)
    show(table, args.markdown)


def compare_speed(args: argparse.Namespace) -> None:
    show(speed.speed_table(args.batch_size, args.frames, args.crop, args.rounds, args.threads), args.markdown, "speed")


def compare_training(args: argparse.Namespace) -> None:
    size = training.Size(args.batch_size, args.frames, args.crop)
    if args.large:
        sizes = (training.Size(args.batch_size, 96, 224), training.Size(args.batch_size, 16, 448))
        ways = ("none", "blocks") if args.recompute == "none" else (args.recompute,)
        show(training.large_table(sizes, ways, args.rounds, args.threads), args.markdown, "large")
    elif args.data:
        with tempfile.TemporaryDirectory(prefix="benchmark") as folder:
            files = [made_clips.make_clip(Path(folder), made_clips.RECIPES[0])]
            lines = training.data_lines(
                size, files, Path(folder, "set"), args.workers, args.rounds, args.precision[-1], args.threads
            )
            show(lines, args.markdown, "train data")
    else:
        rows = training.contenders(args.precision, args.compile, args.recompute)
        show(training.training_table(size, rows, args.rounds, args.threads, args.memory), args.markdown, "train")


def compare_data(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="benchmark") as folder:
        recipes = tqdm(made_clips.RECIPES, "making clips", leave=False, disable=None)
        made = {recipe.title: made_clips.make_clip(Path(folder), recipe) for recipe in recipes}
        files = {**made, **{str(path): path for path in args.videos}}
        tables = {
            "readers": decoding.reader_table(files, readers.find_readers(), args.rounds, args.starts),
            "crops": cropping.crop_table(5 * args.rounds),
            "loading": loading.loader_table(made, Path(folder, "datasets"), args.workers, args.rounds, args.clips),
        }
        for name in args.tables:
            show(tables[name], args.markdown, name)
            print()


def measure_memory(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="benchmark") as folder:
        recipes = tqdm(made_clips.small_recipes(args.files), "making clips", leave=False, disable=None)
        paths = [made_clips.make_clip(Path(folder), recipe, seed) for seed, recipe in enumerate(recipes)]
        table = loading.memory_table(paths, Path(folder, "dataset"), args.clips, args.every)
        show(table, args.markdown, "memory")


def measure_lists(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="benchmark", dir=args.folder) as folder:
        show(lists.list_table(Path(folder), args.clips), args.markdown, "lists")


def measure_checkpoints(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="benchmark", dir=args.folder) as folder:
        table = checkpoints.checkpoint_table(checkpoints.default_run(Path(folder)), args.rounds)
        show(table, args.markdown, "checkpoint")
