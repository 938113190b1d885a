"""Measures models, training, the way from files to clips, and checkpoints; prints Markdown tables.

python tools/benchmark.py models --cfg configs/HMDB/*.yaml [--time] [--markdown docs/models.md]
python tools/benchmark.py train [--batch-size 1] [--compile] [--recompute blocks] [--memory]
python tools/benchmark.py train --data [--rounds 20] [--workers 8]
python tools/benchmark.py data [--videos CLIP ...] [--rounds 5] [--markdown docs/performance.md]
python tools/benchmark.py memory [--clips 20000] [--markdown docs/performance.md]
python tools/benchmark.py lists [--clips 1000000] [--markdown docs/performance.md]
python tools/benchmark.py checkpoint [--rounds 3] [--markdown docs/checkpoints.md]
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from timesformer.arguments import as_path
from timesformer.config import get_cfg
from timesformer.errors import UserError
from tools.benchmark import checkpoints, cropping, loading, made_clips, models, readers, training
from tools.benchmark.contenders import Size
from tools.benchmark.tables import show

DATA_TABLES = ("readers", "crops", "loading")


def main() -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)

    add = _command(commands, "models", measure_models, "parameters, operations, time and memory of configurations")
    add("--cfg", type=as_path, nargs="+", required=True, metavar="YAML")
    add("--time", action="store_true", help="also measure time and memory, each model in a fresh process")
    add("--cpu", action="store_true", help="do not use the GPU")
    _add_timing_options(add)

    add = _command(commands, "train", measure_training, "training and inference: this project, original, Hugging Face")
    add("--frames", type=int, default=8)
    add("--crop", type=int, default=224, help="height and width in pixels")
    add("--attention", default="divided_space_time", help="TIMESFORMER.ATTENTION_TYPE; joint has no original")
    add("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    add("--compile", action="store_true", help="also this project's model compiled")
    add("--recompute", default="none", metavar="WHICH", help="also with this MODEL.ACT_CHECKPOINT")
    add("--memory", action="store_true", help="also measure memory, each in a fresh process")
    add("--data", action="store_true", help="train on made clips, and measure the wait for them")
    add("--workers", type=int, default=os.cpu_count() or 1, help="DataLoader workers, with --data")
    _add_timing_options(add)

    add = _command(commands, "data", measure_data, "decoding, cropping and loading of made clips")
    add("--tables", nargs="+", choices=DATA_TABLES, default=DATA_TABLES)
    add("--videos", nargs="+", type=as_path, default=[], metavar="CLIP", help="more files or folders of frames")
    add("--rounds", type=int, default=5, help="measurements, in turn")
    add("--starts", type=int, default=5, help="clips read of each file in a round")
    add("--workers", type=int, nargs="+", default=sorted({0, 1, os.cpu_count() or 1}), help="DataLoader workers")
    add("--clips", type=int, default=64, help="clips loaded of each file in a round")

    add = _command(commands, "memory", measure_memory, "memory of a DataLoader worker over many clips")
    add("--clips", type=int, default=20_000)
    add("--every", type=int, default=1_000, help="clips from one row to the next")
    add("--files", type=int, default=200, help="number of small videos")

    add = _command(commands, "lists", measure_lists, "time and memory to open the list of a large dataset")
    add("--clips", type=int, default=1_000_000)
    add("--folder", type=as_path, help="on the disk to measure (default: that of temporary files)")

    add = _command(commands, "checkpoint", measure_checkpoints, "writing, checking and loading checkpoints")
    add("--rounds", type=int, default=3, help="measurements")
    add("--folder", type=as_path, help="on the disk to measure (default: that of temporary files)")

    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="benchmark", dir=getattr(args, "folder", None)) as folder:
            for mark, lines in args.run(args, Path(folder)):
                show(lines, args.markdown, mark)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


Tables = Iterable[tuple[str, Iterable[str]]]  # names of the marks in a page, and lines


def _command(
    commands: argparse._SubParsersAction, name: str, run: Callable[..., Tables], text: str
) -> Callable[..., object]:
    command = commands.add_parser(name, help=text)
    command.set_defaults(run=run)
    command.add_argument("--markdown", type=as_path, metavar="FILE", help="replace the tables in this page")
    return command.add_argument


def _add_timing_options(add: Callable[..., object]) -> None:
    add("--batch-size", type=int, default=1)
    add("--rounds", type=int, default=5, help="measurements, in turn, after a warm-up")
    add("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice, 1: measure processor time")


def measure_models(args: argparse.Namespace, folder: Path) -> Tables:
    lines = models.model_table(args.cfg, args.time, args.batch_size, args.rounds, args.threads, not args.cpu)
    return [("table", lines)]


def measure_training(args: argparse.Namespace, folder: Path) -> Tables:
    size = Size(args.batch_size, args.frames, args.crop, attention_type=args.attention)
    if args.data:
        files = [made_clips.make_clip(folder, made_clips.RECIPES[0])]
        precision = args.precision[-1]
        lines = training.data_lines(size, files, folder / "set", args.workers, args.rounds, precision, args.threads)
        return [("train data", lines)]
    rows = training.contenders(args.precision, args.compile, args.recompute, args.attention)
    return [("train", training.training_table(size, rows, args.rounds, args.threads, args.memory))]


def measure_data(args: argparse.Namespace, folder: Path) -> Tables:
    made = {recipe.title: made_clips.make_clip(folder, recipe) for recipe in made_clips.RECIPES}
    files = {**made, **{str(path): path for path in args.videos}}
    tables = {
        "readers": partial(readers.reader_table, files, readers.find_readers(), args.rounds, args.starts),
        "crops": partial(cropping.crop_table, 5 * args.rounds),
        "loading": partial(loading.loader_table, made, folder / "sets", args.workers, args.rounds, args.clips),
    }
    return [(name, tables[name]()) for name in args.tables]


def measure_memory(args: argparse.Namespace, folder: Path) -> Tables:
    recipes = enumerate(made_clips.small_recipes(args.files))
    paths = [made_clips.make_clip(folder, recipe, seed) for seed, recipe in recipes]
    return [("memory", loading.memory_table(paths, folder / "set", args.clips, args.every))]


def measure_lists(args: argparse.Namespace, folder: Path) -> Tables:
    return [("lists", loading.list_table(folder, args.clips))]


def measure_checkpoints(args: argparse.Namespace, folder: Path) -> Tables:
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    return [("checkpoint", checkpoints.checkpoint_table(cfg, args.rounds))]
