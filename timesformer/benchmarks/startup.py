"""Start-up: importing the package, the help of commands, the first prediction and the first training step."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from timesformer.benchmarks.tables import header, row
from timesformer.benchmarks.timing import describe_machine
from timesformer.config.load import load_config
from timesformer.config.shipped import find_config
from timesformer.engine.checkpoint import save_best
from timesformer.engine.progress import Progress
from timesformer.errors import counted
from timesformer.models import build_model
from timesformer.preparation import demo

DEMO = "Demo/TimeSformer_divST_8x2_48"
FIRST_STEP = """
import os, sys
from timesformer.commands import train
from timesformer.engine.trainer import Trainer
step = Trainer.train_step
Trainer.train_step = lambda *arguments: (step(*arguments), os._exit(0))
sys.exit(train.main())
"""
"""A program that trains as its arguments say, and exits after the first step."""


def startup_table(folder: Path, commands: Sequence[str], rounds: int, before: Path | None = None) -> Iterator[str]:
    """Table of the processor time of fresh processes, the lowest of `rounds`.

    `commands` are those of `timesformer`, whose help is shown. With `before`, another checkout of this project, both
    are measured in turn.
    """
    checkouts = [*([before] if before else []), Path(__file__).parents[2]]
    caption = (
        f"{describe_machine()}. Seconds of processor time of fresh processes that compute with one thread, with the "
        f"processes they start: the lowest of {counted(rounds, 'round')}."
    )
    yield from header(caption, ["process", *(["before"] if before else []), "this version"])
    for name, arguments in _programs(folder, commands).items():
        turns = [[_processor_seconds(arguments, checkout, folder) for checkout in checkouts] for _ in range(rounds)]
        yield row([name, *(f"{min(seconds):.2f}" for seconds in zip(*turns, strict=True))])


def _programs(folder: Path, commands: Sequence[str]) -> dict[str, list[str]]:
    """Arguments of Python for each process that is measured; makes a small demo dataset and an untrained model."""
    data = folder / "demo"
    demo.make(data, seed=0, clips_per_class=(2, 1, 1), workers=1)
    options = ["DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(folder / "run"), "DATA_LOADER.NUM_WORKERS", "0"]
    config = find_config(DEMO)
    cfg = load_config(config, options)
    torch.manual_seed(0)
    save_best(cfg, build_model(cfg), Progress(epoch=1))
    clip = sorted(data.glob("test/*/*"))[0]
    predict = ["--checkpoint", str(folder / "run"), str(clip)]
    train = ["--cfg", str(config), *options, "OUTPUT_DIR", str(folder / "training")]
    return {
        "Python alone": ["-c", ""],
        "`import timesformer`": ["-c", "import timesformer"],
        "`timesformer --help`": ["-m", "timesformer", "--help"],
        **{f"`timesformer {name} --help`": ["-m", "timesformer", name, "--help"] for name in commands},
        "`import torch`": ["-c", "import torch"],
        "`timesformer predict`, one clip, demo model": ["-m", "timesformer", "predict", *predict],
        "`timesformer train` to the end of the first step, demo model": ["-c", FIRST_STEP, *train],
    }


def _processor_seconds(arguments: Sequence[str], checkout: Path, folder: Path) -> float:
    """Processor time of a process of Python, with that of its children."""
    shutil.rmtree(folder / "training", ignore_errors=True)
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    with (folder / "output").open("w+b") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=checkout, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(arguments[:4])}: {output.read().decode()}")
    return used.ru_utime + used.ru_stime
