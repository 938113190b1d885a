#!/usr/bin/env python3
"""Runs a study, and writes its tables and figures: published figures beside ours.

python tools/reproduce.py hmdb_simp --demo --jobs 2
python tools/reproduce.py hmdb_simp --data /data/HMDB_simp --table 1 --weights K400=TimeSformer_divST_8x32_224_K400.pyth
python tools/reproduce.py hmdb_simp --demo --sweep SOLVER.BASE_LR=0.001,0.0035 TRAIN.BATCH_SIZE=4,8 SOLVER.MAX_EPOCH 2

Finished cells are never run again, and the same command goes on after an interruption.
"""

import argparse
import sys
from itertools import takewhile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.arguments import as_path, as_source
from timesformer.errors import UserError
from timesformer.runtime.signals import exit_code, install_signal_handlers
from timesformer.studies.study import FOLDER


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Runs a study, and writes its tables and figures: published figures beside ours."
    )
    add = parser.add_argument
    add(
        "study",
        type=as_source,
        metavar="STUDY",
        help=f"{', '.join(sorted(path.stem for path in FOLDER.glob('*.yaml')))}, or a file",
    )
    add("--demo", action="store_true", help="small models on made clips: minutes on two cores, no data needed")
    add("--data", type=as_path, metavar="FOLDER", help="of the dataset; with --demo, where its clips are made")
    add("--weights", action="append", default=[], metavar="NAME=PLACE", help="of published weights; may be repeated")
    add("--table", type=int, action="append", default=[], metavar="N", help="run this table alone; may be repeated")
    add("--seeds", type=int, metavar="N", help="training seeds, 1 to N, of every row (the study's)")
    add("--launcher", choices=("local", "slurm"), default="local", help="where cells run (local)")
    add("--jobs", type=int, metavar="N", help="cells at a time (local: 1; slurm, in the queue: 100)")
    add("--submit", default="", metavar="OPTIONS", help='of tools/submit.py, as in --submit "--partition gpu"')
    add("--sweep", action="append", default=[], metavar="KEY=V,V,...", help="vary these instead of running the tables")
    add("--sweep-random", type=int, default=0, metavar="N", help="draw N combinations; values may be uniform(a,b) too")
    add("--sweep-seed", type=int, default=1, metavar="N", help="of that draw (1)")
    add(
        "--output",
        type=as_path,
        default=Path("output/studies"),
        metavar="FOLDER",
        help="of all studies (output/studies)",
    )
    add("--dry-run", action="store_true", help="list the cells, and run nothing")
    add("opts", nargs="*", metavar="KEY VALUE", help="options of every cell, over the study's")
    args = parser.parse_intermixed_args(repeated_sweep(sys.argv[1:]))
    for name in ("seeds", "jobs"):
        if (number := getattr(args, name)) is not None and number < 1:
            parser.error(f"--{name} {number}: expected 1 or more")
    if wrong := [text for text in args.weights if "=" not in text]:
        parser.error(f"--weights {wrong[0]}: expected NAME=PLACE, such as K400=model.pyth")
    if args.sweep_random and not args.sweep:
        parser.error("--sweep-random draws from --sweep KEY=V,V,...: give at least one")
    if args.sweep and args.table:
        parser.error("--sweep takes the place of the tables: leave --table out")
    return args


def repeated_sweep(arguments: list[str]) -> list[str]:
    """Makes `--sweep A=1,2 B=3` two `--sweep`, because argparse would take the pairs after it as well."""
    if "--sweep" not in arguments:
        return arguments
    start = arguments.index("--sweep") + 1
    sweeps = list(takewhile(lambda text: "=" in text and not text.startswith("-"), arguments[start:]))
    sweeps = sweeps or arguments[start : start + 1]  # something else, for an error that names it
    rest = repeated_sweep(arguments[start + len(sweeps) :])
    return [*arguments[: start - 1], *(part for text in sweeps or [""] for part in ("--sweep", text)), *rest]


def run(args: argparse.Namespace) -> int:
    from timesformer.studies.cells import Choices
    from timesformer.studies.reproduction import describe, plan, prepare, reproduce
    from timesformer.studies.running import Local, Slurm
    from timesformer.studies.study import find_study, read_study
    from timesformer.studies.sweeps import sweep_table

    study = read_study(find_study(args.study))
    data = Path("DATA") if args.dry_run and not args.demo and args.data is None else args.data
    weights = {name: as_source(source) for name, source in (text.split("=", 1) for text in args.weights)}
    if args.dry_run:
        weights = {**study.pretrained, **weights}
    choices = Choices(args.output, data, args.demo, args.seeds, tuple(args.opts), weights)
    sweep = sweep_table(args.sweep, args.sweep_random, args.sweep_seed) if args.sweep else None
    planned = plan(study, choices, args.table, sweep)
    if args.dry_run:
        print("\n".join(describe(planned)))
        return 0
    prepare(planned, check_gpus=args.launcher == "local")
    if args.launcher == "slurm":
        return reproduce(planned, Slurm(args.jobs or 100, args.submit))
    return reproduce(planned, Local(args.jobs or 1, num_gpus()))


def num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def main() -> int:
    args = parse_args()
    install_signal_handlers()
    try:
        return run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        return exit_code(error)


if __name__ == "__main__":
    sys.exit(main())
