#!/usr/bin/env python3
"""Run a study and write its tables and figures, with the published results next to ours.

python tools/reproduce.py hmdb_simp --demo --jobs 2
python tools/reproduce.py hmdb_simp --data /data/HMDB_simp --table 1 --weights K400=TimeSformer_divST_8x32_224_K400.pyth
python tools/reproduce.py hmdb_simp --demo --sweep SOLVER.BASE_LR=0.001,0.0035 TRAIN.BATCH_SIZE=4,8 SOLVER.MAX_EPOCH 2

Finished cells are not run again; after an interruption the same command resumes the study.
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.yaml")))
    add("study", type=as_source, metavar="STUDY", help=f"{known}, or a file")
    add("--demo", action="store_true", help="small models on generated clips: minutes on two cores, no data needed")
    add("--data", type=as_path, metavar="FOLDER", help="the dataset; with --demo, where its clips are generated")
    add("--weights", action="append", default=[], metavar="NAME=SOURCE", help="published weights; repeatable")
    add("--table", type=int, action="append", default=[], metavar="N", help="run only this table; repeatable")
    add("--seeds", type=int, metavar="N", help="training seeds, 1 to N, of every row (default: the study's)")
    add("--fold", type=int, action="append", default=[], metavar="N", help="of a study with folds, run only this one")
    add("--launcher", choices=("local", "slurm"), default="local", help="where cells run (default: local)")
    add("--jobs", type=int, metavar="N", help="cells at a time (default: 1; with Slurm, 100 in the queue)")
    add("--submit", default="", metavar="OPTIONS", help='options of tools/submit.py, e.g. --submit "--partition gpu"')
    add("--sweep", action="append", default=[], metavar="KEY=V,V,...", help="vary these instead of running the tables")
    add("--sweep-random", type=int, default=0, metavar="N", help="draw N combinations; values may be uniform(a,b)")
    add("--sweep-seed", type=int, default=1, metavar="N", help="seed of the draws (default: 1)")
    add("--output", type=as_path, default=Path("output/studies"), help="folder of all studies (output/studies)")
    add("--dry-run", action="store_true", help="list the cells without running them")
    add("opts", nargs="*", metavar="KEY VALUE", help="options of every cell, over the study's")
    args = parser.parse_intermixed_args(repeated_sweep(sys.argv[1:]))
    for name, numbers in (("seeds", [args.seeds]), ("jobs", [args.jobs]), ("fold", args.fold)):
        if too_small := [number for number in numbers if number is not None and number < 1]:
            parser.error(f"--{name} {too_small[0]}: expected 1 or more")
    if invalid := [text for text in args.weights if "=" not in text]:
        parser.error(f"--weights {invalid[0]}: expected NAME=SOURCE, such as K400=model.pyth")
    if args.sweep_random and not args.sweep:
        parser.error("--sweep-random needs at least one --sweep KEY=V,V,...")
    if args.sweep and args.table:
        parser.error("--sweep replaces the tables: remove --table")
    return args


def repeated_sweep(arguments: list[str]) -> list[str]:
    """Turns `--sweep A=1,2 B=3` into two `--sweep`, since argparse would take the KEY VALUE pairs after it as well."""
    if "--sweep" not in arguments:
        return arguments
    start = arguments.index("--sweep") + 1
    sweeps = list(takewhile(lambda text: "=" in text and not text.startswith("-"), arguments[start:]))
    sweeps = sweeps or arguments[start : start + 1]  # not KEY=V; the error names it
    rest = repeated_sweep(arguments[start + len(sweeps) :])
    return [*arguments[: start - 1], *(part for text in sweeps or [""] for part in ("--sweep", text)), *rest]


def run(args: argparse.Namespace) -> int:
    import torch

    from timesformer.studies.plan import Choices, Plan
    from timesformer.studies.reproduction import prepare, reproduce
    from timesformer.studies.running import Local, Slurm
    from timesformer.studies.study import find_study, read_study
    from timesformer.studies.sweeps import sweep_table

    study = read_study(find_study(args.study))
    data = Path("DATA") if args.dry_run and not args.demo and args.data is None else args.data
    weights = dict(study.pretrained) if args.dry_run else {}
    weights |= {name: as_source(source) for name, source in (text.split("=", 1) for text in args.weights)}
    sweep = sweep_table(args.sweep, args.sweep_random, args.sweep_seed) if args.sweep else None
    folds = tuple(dict.fromkeys(args.fold))
    choices = Choices(args.output, data, args.demo, args.seeds, tuple(args.opts), weights, folds)
    plan = Plan(study, choices, args.table, sweep)
    if args.dry_run:
        print("\n".join(plan.describe()))
        return 0
    is_local = args.launcher == "local"
    prepare(plan, check_gpus=is_local)
    launcher = Local(args.jobs or 1, torch.cuda.device_count()) if is_local else Slurm(args.jobs or 100, args.submit)
    return reproduce(plan, launcher)


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
