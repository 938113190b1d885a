"""A sweep of a user's configuration, of which a bad trial is left."""

import json
from pathlib import Path

from tests.studies.conftest import CONFIG, finish
from timesformer.runtime.run_folder import metrics_path
from timesformer.studies import demo_data
from timesformer.studies.cells import Cell
from timesformer.studies.plan import Choices
from timesformer.studies.study import DemoData, read_study
from timesformer.studies.sweep_run import SweepRun
from timesformer.studies.sweeps import make_sweep

SWEEP = "SOLVER.BASE_LR=0.1,0.2,0.3,0.4,0.5,0.6"


def almost_finished_sweep(folder: Path) -> tuple[list[str], Cell, Cell]:
    """The arguments of tools/reproduce.py, the best finished cell, and the cell that a pruner has to end.

    Five cells have finished with an accuracy that no training reaches. The last is a real one of 1000 epochs.
    """
    data = demo_data.make(DemoData(seed=3, clips=(2, 1, 1), classes=("left", "right")), folder / "clips", 1)
    options = ("SOLVER.MAX_EPOCH", "1000", "DATA.PATH_TO_DATA_DIR", str(data))
    path, output = folder / "mine.yaml", folder / "out"
    path.write_text(CONFIG)
    choices = Choices(output, None, False, options=options)
    *good, bad = SweepRun(read_study(path), choices, make_sweep([SWEEP], pruner="median")).plan.cells
    for number, cell in enumerate(good):
        finish(cell, 50.0, val_top1=101.0 + number)
        curve = [{"kind": "val_epoch", "epoch": epoch, "top1": 101.0} for epoch in range(1, 1001)]
        metrics_path(cell.cfg).write_text("".join(f"{json.dumps(line)}\n" for line in curve))
    command = [str(path), "--sweep", SWEEP, "--sweep-pruner", "median", "--output", str(output), *options]
    return command, good[-1], bad
