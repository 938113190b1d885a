#!/usr/bin/env python3
"""Trains, validates and tests a model as a configuration says.

python tools/run_net.py --cfg configs/HMDB/TimeSformer_divST_8x32_224.yaml DATA.PATH_TO_DATA_DIR /data/HMDB_simp

With --splits, runs several official splits of HMDB51 or UCF101 and averages their results:

python tools/run_net.py --cfg configs/HMDB51/NAME.yaml --splits 1 2 3 DATA.PATH_TO_DATA_DIR /data/hmdb51
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fvcore.common.config import CfgNode

from timesformer.arguments import add_import, as_path
from timesformer.config import load_config
from timesformer.runtime.launch import launch, run_and_report
from timesformer.runtime.ranks import is_main_process
from timesformer.runtime.signals import install_signal_handlers

if TYPE_CHECKING:
    from timesformer.datasets.catalog import Splits

SPLITS_HELP = """1 2 3: run each of these official splits (DATA.SPLIT) in OUTPUT_DIR/split_N, and write the mean of
their results to OUTPUT_DIR/splits.json; finished ones are not repeated"""
INIT_METHOD_HELP = "tcp://HOST:PORT, rendezvous of several nodes without torchrun, srun or tools/submit.py"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains, validates and tests a model as a configuration says.")
    add = parser.add_argument
    add("--cfg", dest="cfg_file", type=as_path, metavar="YAML", help="configuration file; without it, the defaults")
    add("--splits", nargs="+", default=[], metavar="N", help=SPLITS_HELP)
    add("--shard_id", type=int, metavar="N", help="number of this node, from 0 (SHARD_ID)")
    add("--num_shards", type=int, metavar="N", help="number of nodes (NUM_SHARDS)")
    add("--init_method", default="", metavar="URL", help=INIT_METHOD_HELP)
    add_import(parser)
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="options that override those of the file")
    args = parser.parse_args()
    splits = list(takewhile(str.isdecimal, args.splits))
    if args.splits and not splits:
        parser.error(f"--splits {args.splits[0]}, expected numbers of splits, such as 1 2 3")
    args.opts = args.splits[len(splits) :] + args.opts  # argparse takes the KEY VALUE pairs for splits, too
    args.splits = [int(split) for split in splits]
    if args.cfg_file is None and not args.opts:
        parser.error("give a configuration, such as --cfg configs/Demo/TimeSformer_divST_8x2_48.yaml")
    if args.splits and "DATA.SPLIT" in args.opts[::2]:
        parser.error("--splits sets DATA.SPLIT for each run: omit one of them")
    for key, value in (("SHARD_ID", args.shard_id), ("NUM_SHARDS", args.num_shards)):
        args.opts += [key, str(value)] if value is not None else []
    return args


def main() -> int:
    args = parse_args()
    install_signal_handlers()

    def configure_and_launch() -> int:
        cfg = load_config(args.cfg_file, args.opts, imports=args.imports)
        return launch(cfg, partial(run_all, splits=args.splits), args.init_method)

    return run_and_report(configure_and_launch)


def run_all(cfg: CfgNode, splits: list[int]) -> None:
    """Runs the configuration, or each of the official splits."""
    if splits:
        from timesformer.engine.repeats import run_splits

        run_splits(cfg, splits, run)
        if is_main_process() and cfg.TEST.REPORT:
            from timesformer.visualization.report import compare_after_splits

            compare_after_splits(cfg, splits)
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


if __name__ == "__main__":
    sys.exit(main())
