"""Trains, validates and tests a model as a configuration says.

python tools/run_net.py --cfg configs/HMDB/TimeSformer_divST_8x32_224.yaml DATA.PATH_TO_DATA_DIR /data/HMDB_simp

With --repeats, runs it several times, and reports mean, standard deviation and a confidence interval:

python tools/run_net.py --cfg configs/HMDB51/NAME.yaml --repeats splits=1,2,3 DATA.PATH_TO_DATA_DIR /data/hmdb51
python tools/run_net.py --cfg configs/Folder/NAME.yaml --repeats folds=5 seeds=3 DATA.PATH_TO_DATA_DIR /data/clips
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from fvcore.common.config import CfgNode

from timesformer.arguments import Parser, add_import, as_path
from timesformer.config import load_config
from timesformer.errors import UserError
from timesformer.runtime.launch import launch, refuse_launcher, run_and_report
from timesformer.runtime.ranks import is_main_process
from timesformer.runtime.signals import install_signal_handlers
from timesformer.studies.repeats import FORM, Repeats, parse_repeats

if TYPE_CHECKING:
    from timesformer.datasets.catalog import Splits

REPEATS_HELP = """splits=1,2,3 (official splits) or folds=5 (cross-validation), and seeds=3: a run for each combination
in a folder of OUTPUT_DIR, and their statistics in OUTPUT_DIR/repeats.json; finished ones are not repeated"""
INIT_METHOD_HELP = "tcp://HOST:PORT, rendezvous of several nodes without torchrun, srun or timesformer submit"


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description="Trains, validates and tests a model as a configuration says.")
    add = parser.add_argument
    add("--cfg", dest="cfg_file", type=as_path, metavar="YAML", help="configuration file; without it, the defaults")
    add("--repeats", nargs="+", default=[], metavar="NAME=N", help=REPEATS_HELP)
    add("--splits", nargs="+", default=[], metavar="N", help="1 2 3: the same as --repeats splits=1,2,3")
    add("--jobs", type=int, metavar="N", help="repeats at a time (default: 1; with Slurm, 100 in the queue)")
    add("--launcher", choices=("local", "slurm"), default="local", help="where repeats run (default: local)")
    add("--submit", default="", metavar="OPTIONS", help='options of timesformer submit, e.g. "--partition gpu"')
    add("--shard_id", type=int, metavar="N", help="number of this node, from 0 (SHARD_ID)")
    add("--num_shards", type=int, metavar="N", help="number of nodes (NUM_SHARDS)")
    add("--init_method", default="", metavar="URL", help=INIT_METHOD_HELP)
    add_import(parser)
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="options that override those of the file")
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser()
    args = parser.parse_args(arguments)
    # argparse takes the KEY VALUE pairs after --repeats or --splits for more of their values.
    words = list(takewhile(lambda word: "=" in word, args.repeats))
    splits = list(takewhile(str.isdecimal, args.splits))
    args.opts = args.repeats[len(words) :] + args.splits[len(splits) :] + args.opts
    if args.splits and not splits:
        parser.error(f"--splits {args.splits[0]}, expected numbers of splits, such as 1 2 3")
    if args.repeats and not words:
        parser.error(f"--repeats {args.repeats[0]}, expected {FORM}")
    if splits and words:
        parser.error("--splits is the same as --repeats splits=...: give one of them")
    try:
        args.repeats = parse_repeats([f"splits={','.join(splits)}"] if splits else words)
    except UserError as error:
        parser.error(str(error))
    if args.cfg_file is None and not args.opts:
        parser.error("give a configuration, such as --cfg configs/Demo/TimeSformer_divST_8x2_48.yaml")
    if both := [key for key in args.repeats.keys if key in args.opts[::2]]:
        parser.error(f"--repeats sets {both[0]} for each run: remove one of them")
    if args.jobs is not None and args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: expected 1 or more")
    if not args.repeats.keys and (args.jobs or args.submit or args.launcher != "local"):
        parser.error("--jobs, --launcher and --submit are for --repeats")
    for key, value in (("SHARD_ID", args.shard_id), ("NUM_SHARDS", args.num_shards)):
        args.opts += [key, str(value)] if value is not None else []
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    install_signal_handlers()

    def configure_and_launch() -> int:
        is_local = args.launcher == "local"
        cfg = load_config(args.cfg_file, args.opts, check_gpus=is_local, imports=args.imports)
        if is_local and (args.jobs or 1) == 1:
            return launch(cfg, partial(run_all, repeats=args.repeats), args.init_method)
        refuse_launcher("--repeats with --jobs or --launcher starts its processes itself")
        import torch

        from timesformer.studies.repeated_runs import run_as_jobs
        from timesformer.studies.running import Local, Slurm

        launcher = Local(args.jobs, torch.cuda.device_count()) if is_local else Slurm(args.jobs or 100, args.submit)
        return run_as_jobs(cfg, args.repeats, launcher)

    return run_and_report(configure_and_launch)


def run_all(cfg: CfgNode, repeats: Repeats) -> None:
    """Runs the configuration, or each of its repeats."""
    if repeats.keys:
        from timesformer.studies.repeated_runs import run_here

        run_here(cfg, repeats, run)
    else:
        run(cfg)


def run(cfg: CfgNode, splits: Splits | None = None) -> None:
    """Trains and tests; imports PyTorch late, so that mistakes in the configuration are reported at once."""
    from timesformer.datasets.catalog import Splits
    from timesformer.engine.evaluate import test
    from timesformer.engine.train import train
    from timesformer.preparation.download import download_if_asked
    from timesformer.runtime.logging import set_up_logging
    from timesformer.runtime.run_folder import lock_output_dir
    from timesformer.runtime.trackers import Trackers

    with lock_output_dir(Path(cfg.OUTPUT_DIR)) if is_main_process() else nullcontext(), Trackers(cfg) as trackers:
        set_up_logging(Path(cfg.OUTPUT_DIR))
        download_if_asked(cfg)
        splits = splits or Splits(cfg)
        if cfg.TRAIN.ENABLE:
            if cfg.TEST.ENABLE:
                splits["test"]  # reports its mistakes before training
            train(cfg, splits, trackers)
        if cfg.TEST.ENABLE:
            results = test(cfg, splits)
            if is_main_process() and cfg.TEST.REPORT:
                from timesformer.visualization.report import report_after_test

                report_after_test(cfg, results.parent, splits)
            trackers.log_test(results.parent)
