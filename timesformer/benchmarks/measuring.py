"""From the options of `timesformer benchmark` to its tables."""

from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from timesformer.benchmarks import (
    exports,
    generated_clips,
    gpu_memory,
    growth,
    lists,
    loading,
    models,
    opening,
    readers,
    serving,
    shards,
    startup,
    timelines,
    training,
)
from timesformer.config import get_cfg


def measure(args: Namespace, folder: Path) -> Iterator[tuple[str, Iterable[str]]]:
    """Names of the marks in a page, and lines."""
    match args.command:
        case "models":
            yield "table", models.model_table(args.cfg, args.time, args.batch_size, args.rounds, args.threads)
        case "train":
            size = training.Size(args.batch_size, args.frames, args.crop, args.attention)
            if args.data:
                torch.set_num_threads(args.threads or torch.get_num_threads())
                file = generated_clips.make_clip(folder, generated_clips.RECIPES[0])
                settings = (args.workers, args.rounds, args.precision[-1])
                yield "train data", training.data_lines(size, file, folder / "set", *settings)
            else:
                rows = training.contenders(args.precision, args.compile, args.recompute, args.attention)
                yield "train", training.training_table(size, rows, args.rounds, args.threads, args.memory)
        case "data":
            made = {recipe.title: generated_clips.make_clip(folder, recipe) for recipe in generated_clips.RECIPES}
            files = {**made, **{str(path): path for path in args.videos}}
            yield "readers", readers.reader_table(files, args.rounds, args.starts)
            yield "crops", readers.crop_table(5 * args.rounds)
        case "loading":
            made = {recipe.title: generated_clips.make_clip(folder, recipe) for recipe in generated_clips.RECIPES}
            sets = {title: [path] * args.clips for title, path in made.items() if path.is_file()}
            sets |= loading.sets_of_videos(args.videos, args.clips)
            settings = (args.workers, args.rounds, args.sampling_rate)
            yield "loading", loading.loader_table(sets, folder / "sets", *settings)
        case "startup":
            yield "startup", startup.startup_table(folder, args.help_of, args.rounds, args.before)
        case "shards":
            made = {recipe.title: generated_clips.make_clip(folder, recipe) for recipe in generated_clips.RECIPES}
            yield "shards", shards.shard_table(made, folder / "sets", args.rounds, args.clips)
        case "opening":
            files = {**opening.make_long_videos(folder, args.hours), **{str(path): path for path in args.videos}}
            yield "opening", opening.opening_table(files, args.rounds)
        case "timeline":
            yield "timeline", timelines.timeline_table(args.videos, args.rounds)
        case "export":
            size = training.Size(1, args.frames, args.crop, depth=args.depth)
            yield "export", exports.export_table(size, args.rounds, args.threads, args.nncf, folder)
        case "serve":
            load = serving.Load(args.clients, args.requests, args.rounds)
            yield "serve", serving.service_table(args.checkpoint, args.videos, args.batch_sizes, load)
        case "gpu-memory":
            yield "gpu-memory", gpu_memory.gpu_memory_table(args.cfg, args.batch_sizes, args.precision)
        case "growth":
            yield "growth", growth.growth_table(args.frames, args.crops, args.width, args.rounds)
            yield "parallel", growth.parallel_table(args.processes, args.width, args.rounds, folder)
            yield "estimate", growth.estimate_table(args.step_seconds)
        case "memory":
            recipes = enumerate(generated_clips.small_recipes(args.files))
            paths = [generated_clips.make_clip(folder, recipe, seed) for seed, recipe in recipes]
            yield "memory", loading.memory_table(paths, folder / "set", args.clips)
        case "lists":
            yield "lists", lists.list_table(folder, args.clips)
        case "checkpoint":
            cfg = get_cfg()
            cfg.OUTPUT_DIR = str(folder)
            yield "checkpoint", models.checkpoint_table(cfg, args.rounds)
