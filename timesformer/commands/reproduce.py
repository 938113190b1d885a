"""Run a study and write its tables and figures, with the published results next to ours.

python tools/reproduce.py hmdb_simp --demo --jobs 2
python tools/reproduce.py hmdb_simp --data /data/HMDB_simp --table 1 --weights K400=TimeSformer_divST_8x32_224_K400.pyth
python tools/reproduce.py hmdb_simp --demo --sweep SOLVER.BASE_LR=0.001,0.0035 TRAIN.BATCH_SIZE=4,8 SOLVER.MAX_EPOCH 2
python tools/reproduce.py my.yaml --sweep "SOLVER.BASE_LR=loguniform(1e-4,1e-1)" --sweep-trials 20 --sweep-pruner median

Finished cells are not run again; after an interruption the same command resumes the study.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from timesformer.arguments import Parser, as_path, as_source
from timesformer.commands.command import run_command
from timesformer.config.shipped import study_names


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    study_help = f"{', '.join(study_names())}, the file of a study, or any configuration"
    add("study", type=as_source, metavar="STUDY", help=study_help)
    add("--demo", action="store_true", help="small models on generated clips: minutes on two cores, no data needed")
    add("--data", type=as_path, metavar="FOLDER", help="the dataset; with --demo, where its clips are generated")
    add("--weights", action="append", default=[], metavar="NAME=SOURCE", help="published weights; repeatable")
    add("--table", type=int, action="append", default=[], metavar="N", help="run only this table; repeatable")
    add("--seeds", type=int, metavar="N", help="training seeds, 1 to N, of every row (default: the study's)")
    add("--fold", type=int, action="append", default=[], metavar="N", help="of a study with folds, run only this one")
    add("--launcher", choices=("local", "slurm"), default="local", help="where cells run (default: local)")
    add("--jobs", type=int, metavar="N", help="cells at a time (default: 1; with Slurm, 100 in the queue)")
    add("--submit", default="", metavar="OPTIONS", help='options of timesformer submit, e.g. "--partition gpu"')
    add("--sweep", action="append", default=[], metavar="KEY=V,V,...", help="vary these instead of running the tables")
    add("--sweep-random", type=int, metavar="N", help="short for --sweep-sampler random --sweep-trials N")
    add("--sweep-sampler", choices=("grid", "random", "tpe"), help="default: tpe with --sweep-trials, else grid")
    add("--sweep-trials", type=int, metavar="N", help="number of combinations; values may be uniform(low,high)")
    add("--sweep-pruner", choices=("none", "median", "hyperband"), default="none", help="ends bad trials early (none)")
    add("--sweep-seed", type=int, default=1, metavar="N", help="seed of the sampler (default: 1)")
    add("--output", type=as_path, default=Path("output/studies"), help="folder of all studies (output/studies)")
    add("--dry-run", action="store_true", help="list the cells without running them")
    add("opts", nargs="*", metavar="KEY VALUE", help="options of every cell, over the study's")
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser()
    args = parser.parse_intermixed_args(repeated_sweep(list(sys.argv[1:] if arguments is None else arguments)))
    counts = {name: [getattr(args, name)] for name in ("seeds", "jobs", "sweep_random", "sweep_trials")}
    for name, numbers in {**counts, "fold": args.fold}.items():
        if too_small := [number for number in numbers if number is not None and number < 1]:
            parser.error(f"--{name.replace('_', '-')} {too_small[0]}: expected 1 or more")
    if invalid := [text for text in args.weights if "=" not in text]:
        parser.error(f"--weights {invalid[0]}: expected NAME=SOURCE, such as K400=model.pyth")
    complete_sweep(parser, args)
    return args


def complete_sweep(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Sets the sampler and the number of trials of a sweep, and checks its options."""
    if args.sweep_random and (args.sweep_trials or args.sweep_sampler not in (None, "random")):
        parser.error("--sweep-random N is short for --sweep-sampler random --sweep-trials N: give either")
    default = "random" if args.sweep_random else "tpe" if args.sweep_trials else "grid"
    args.sweep_sampler = args.sweep_sampler or default
    args.sweep_trials = args.sweep_random or args.sweep_trials or 0
    if not args.sweep and (args.sweep_sampler != "grid" or args.sweep_pruner != "none"):
        parser.error("options of a sweep need at least one --sweep KEY=V,V,...")
    if args.sweep_sampler == "grid" and args.sweep_trials:
        parser.error("--sweep-sampler grid runs the whole grid: remove --sweep-trials")
    if args.sweep_sampler != "grid" and not args.sweep_trials:
        parser.error(f"--sweep-sampler {args.sweep_sampler} needs --sweep-trials N")
    if args.sweep and args.table:
        parser.error("--sweep replaces the tables: remove --table")


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
    from timesformer.studies.sweep_run import SweepRun
    from timesformer.studies.sweeps import make_sweep

    study = read_study(find_study(args.study))
    weights = {name: as_source(source) for name, source in (text.split("=", 1) for text in args.weights)}
    given = (args.seeds, tuple(args.opts), weights, tuple(dict.fromkeys(args.fold)), args.dry_run)
    choices, sweep = Choices(args.output, args.data, args.demo, *given), None
    if args.sweep:
        chosen = make_sweep(args.sweep, args.sweep_sampler, args.sweep_trials, args.sweep_seed, args.sweep_pruner)
        sweep = SweepRun(study, choices, chosen)
    plan = sweep.plan_to_check() if sweep else Plan(study, choices, args.table)
    if args.dry_run:
        print("\n".join((sweep or plan).describe()))
        return 0
    is_local = args.launcher == "local"
    prepare(plan, check_gpus=is_local)
    if sweep and (begun := sweep.begin()) is not plan:
        plan = begun
        prepare(plan, check_gpus=is_local)
    launcher = Local(args.jobs or 1, torch.cuda.device_count()) if is_local else Slurm(args.jobs or 100, args.submit)
    return reproduce(plan, launcher, sweep)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    return run_command(lambda: run(args), interrupted="")  # run_cells reports what happens to the running cells
