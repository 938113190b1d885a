"""Running the trials of a sweep: chosen, pruned and resumed, compared with Optuna's own loop."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState

from tests.studies.conftest import finish
from timesformer.errors import UserError
from timesformer.runtime.run_folder import metrics_path
from timesformer.studies.cells import Cell
from timesformer.studies.plan import Choices
from timesformer.studies.reproduction import reproduce
from timesformer.studies.study import Study
from timesformer.studies.sweep_page import draw_trials
from timesformer.studies.sweep_run import SweepRun
from timesformer.studies.sweeps import Sweep, make_sweep

EPOCHS = 4
RATES = "SOLVER.BASE_LR=loguniform(1e-4,1)"


def accuracy(rate: float, epoch: int) -> float:
    """Validation accuracy of a made-up training: highest at a rate of 0.01."""
    return 90 - 10 * abs(math.log10(rate) + 2) - 40 / (epoch + 1)


class FakeLauncher:
    """Trains an epoch of every running cell per poll; is interrupted after `polls`."""

    def __init__(self, capacity: int = 1, polls: int = 10**9) -> None:
        self.capacity, self.polls = capacity, polls
        self.started: list[Cell] = []
        self.cancelled: list[Cell] = []
        self.running: list[Cell] = []

    def start(self, cell: Cell, slot: int) -> None:
        assert cell not in self.started
        self.started.append(cell)
        self.running.append(cell)

    def cancel(self, cell: Cell) -> None:
        self.cancelled.append(cell)

    def poll(self) -> list[Cell]:
        self.polls -= 1
        if self.polls < 0:
            raise KeyboardInterrupt
        ended = [cell for cell in self.running if cell in self.cancelled or self.train(cell)]
        self.running = [cell for cell in self.running if cell not in ended]
        return ended

    def train(self, cell: Cell) -> bool:
        path = metrics_path(cell.cfg)
        epoch = 1 + (len(path.read_text().splitlines()) if path.exists() else 0)
        top1 = accuracy(cell.cfg.SOLVER.BASE_LR, min(epoch, EPOCHS)) - cell.cfg.RNG_SEED + 1
        if epoch <= EPOCHS:
            with path.open("a") as file:
                file.write(json.dumps({"kind": "val_epoch", "epoch": float(epoch), "top1": top1}) + "\n")
            return False
        metrics = {"chance": 50.0, "majority": 51.0}
        finish(cell, 99 - top1, val_top1=top1, metrics=metrics)  # the test prefers the worst
        return True

    def stop(self) -> str:
        return ""


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timesformer.studies.running.time.sleep", lambda seconds: None)
    monkeypatch.setattr("timesformer.studies.sweep_page.draw_trials", lambda run: ())


Run = Callable[..., SweepRun]


@pytest.fixture
def run_sweep(study: Study, choices: Choices) -> Run:
    """run_sweep(sweep, launcher, output, seeds): the sweep after the command has ended or was interrupted."""

    def run(sweep: Sweep, launcher: FakeLauncher, output: str = "out", seeds: int = 1) -> SweepRun:
        options = ("SOLVER.MAX_EPOCH", str(EPOCHS))
        result = SweepRun(
            study, replace(choices, seeds=seeds, options=options, output=choices.output.parent / output), sweep
        )
        try:
            assert reproduce(result.begin(), launcher, result) == 0
        except KeyboardInterrupt:
            assert launcher.polls < 0
        return result

    return run


def states(study: optuna.Study) -> list[tuple]:
    return [(trial.params, trial.state, trial.value, trial.intermediate_values) for trial in study.trials]


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_trials_are_pruned_as_in_a_loop_of_optuna(run_sweep: Run, pruner: str) -> None:
    sweep = make_sweep([RATES], "random", 16, 1, pruner)
    run = run_sweep(sweep, launcher := FakeLauncher())
    pruners = {
        "median": optuna.pruners.MedianPruner(),
        "hyperband": optuna.pruners.HyperbandPruner(max_resource=EPOCHS),
    }
    name = run.trials.study.study_name  # hyperband's brackets depend on it
    study = optuna.create_study(study_name=name, pruner=pruners[pruner], direction="maximize")
    for values in sweep.combinations:
        study.enqueue_trial(values)

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("SOLVER.BASE_LR", 1e-4, 1, log=True)
        for epoch in range(1, EPOCHS + 1):
            trial.report(accuracy(rate, epoch), epoch)
            if epoch < EPOCHS and trial.should_prune():
                raise optuna.TrialPruned
        return accuracy(rate, EPOCHS)

    study.optimize(objective, n_trials=16)
    assert states(run.trials.study) == states(study)
    pruned = [trial.number for trial in study.trials if trial.state == TrialState.PRUNED]
    assert [launcher.started.index(cell) for cell in launcher.cancelled] == pruned
    assert 2 <= len(pruned) <= 12
    assert run.trials.best().number == study.best_trial.number

    again = run_sweep(sweep, launcher := FakeLauncher())  # neither finished nor pruned trials are repeated
    assert not launcher.started
    assert states(again.trials.study) == states(study)
    assert sum(line.startswith("pruned ") for line in again.describe()) == len(pruned)

    unpruned = run_sweep(replace(sweep, pruner="none"), launcher := FakeLauncher())
    assert len(launcher.started) == len(pruned)  # they resume
    assert all(trial.state == TrialState.COMPLETE for trial in unpruned.trials.all())


@pytest.mark.slow
def test_an_interrupted_sweep_continues_with_the_same_trials(run_sweep: Run) -> None:
    sweep = make_sweep([RATES, "SOLVER.MOMENTUM=uniform(0.5,0.9)"], "tpe", 14, 3, "median")
    whole = run_sweep(sweep, FakeLauncher(), "whole")
    assert len({trial.params["SOLVER.BASE_LR"] for trial in whole.trials.all()}) == 14
    parts = [FakeLauncher(polls=polls) for polls in (7, 38, 10**9)]
    for launcher in parts:
        run = run_sweep(sweep, launcher)
    assert all(len(launcher.started) > 1 for launcher in parts)
    resumed = parts[0].started[-1].folder
    assert parts[1].started[0].folder == resumed
    assert states(run.trials.study) == states(whole.trials.study)
    page = (run.plan.folder / "tables.md").read_text()
    assert "chance 50.0, most frequent class 51.0." in page
    (best,) = [line for line in page.splitlines() if "(best)" in line]
    values = {trial.number: trial.value for trial in run.trials.all() if trial.state == TrialState.COMPLETE}
    assert best.startswith(f"| {max(values, key=values.get) + 1} (best) | ")
    assert best.split(" | ")[3] == f"{max(values.values()):.1f}"
    before = states(run.trials.study)
    more = run_sweep(replace(sweep, trials=16), FakeLauncher())
    assert len(more.trials.all()) == 16
    assert states(more.trials.study)[:14] == before


def test_equal_trials_share_their_cells(run_sweep: Run) -> None:
    run = run_sweep(make_sweep(["SOLVER.BASE_LR=0.01,0.1"], "tpe", 6), launcher := FakeLauncher(2))
    assert len(launcher.started) == 2
    expected = {"0.01": accuracy(0.01, EPOCHS), "0.1": accuracy(0.1, EPOCHS)}
    assert [trial.value for trial in run.trials.all()] == [
        expected[trial.params["SOLVER.BASE_LR"]] for trial in run.trials.all()
    ]
    assert len(run.trials.all()) == 6


def test_other_seeds_wait_for_the_judgement_of_the_first(run_sweep: Run) -> None:
    rates = ",".join(f"{10**-exponent:g}" for exponent in (2, 2.1, 2.2, 2.3, 2.4, 4))
    run = run_sweep(make_sweep([f"SOLVER.BASE_LR={rates}"], pruner="median"), launcher := FakeLauncher(), seeds=2)
    assert [(cell.cfg.SOLVER.BASE_LR, cell.cfg.RNG_SEED) for cell in launcher.cancelled] == [(0.0001, 1)]
    assert (0.0001, 2) not in [(cell.cfg.SOLVER.BASE_LR, cell.cfg.RNG_SEED) for cell in launcher.started]
    assert run.trials.best().value == accuracy(0.01, EPOCHS) - 0.5  # mean of both seeds


@pytest.mark.slow
def test_importance_is_that_of_optuna(run_sweep: Run) -> None:
    sweep = make_sweep([RATES, "SOLVER.MOMENTUM=0.5,0.9"], "random", 12)
    run = run_sweep(sweep, FakeLauncher())
    study = optuna.create_study(direction="maximize")
    for values in sweep.combinations:
        distributions = {
            "SOLVER.BASE_LR": optuna.distributions.FloatDistribution(1e-4, 1, log=True),
            "SOLVER.MOMENTUM": optuna.distributions.CategoricalDistribution(["0.5", "0.9"]),
        }
        value = accuracy(values["SOLVER.BASE_LR"], EPOCHS)
        study.add_trial(optuna.create_trial(params=values, distributions=distributions, value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    expected = optuna.importance.get_param_importances(study, evaluator=evaluator)
    assert run.trials.importance() == pytest.approx(expected, rel=1e-9)
    assert expected["SOLVER.BASE_LR"] > 0.7
    charts = dict(draw_trials(run))
    assert list(charts) == ["history", "importance", "validations", "solver_base_lr", "solver_momentum"]
    assert [bar.get_width() for bar in charts["importance"].axes[0].patches] == pytest.approx(
        [100 * share for share in expected.values()]
    )
    (best,) = charts["history"].axes[0].lines
    assert list(best.get_ydata()) == [max(trial.value for trial in study.trials[:end]) for end in range(1, 13)]


def test_an_incomplete_last_line_is_dropped_and_a_damaged_file_reported(run_sweep: Run) -> None:
    sweep = make_sweep([RATES], "random", 2)
    run = run_sweep(sweep, FakeLauncher())
    path = run.plan.folder / "trials.journal"
    with path.open("a") as file:
        file.write('{"op_code": 4, "wor')  # killed while writing
    assert states(run_sweep(sweep, FakeLauncher()).trials.study) == states(run.trials.study)
    path.write_text("nothing of Optuna\n" + path.read_text())
    with pytest.raises(UserError, match=str(path)):
        run_sweep(sweep, FakeLauncher())


def test_a_trial_of_another_command_is_left_to_it(run_sweep: Run) -> None:
    sweep = make_sweep([RATES], "random", 3)
    run = run_sweep(sweep, FakeLauncher(polls=2))
    other = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'a+b')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)\n"  # trial 0
        "print('locked', flush=True)\n"
        "sys.stdin.read()"
    )
    run.trials._locks.close()  # as when the command ends
    command = [sys.executable, "-c", other, str(run.plan.folder / "trials.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        run_sweep(sweep, launcher := FakeLauncher())
        assert len(launcher.started) == 2
        process.stdin.close()
    run_sweep(sweep, launcher := FakeLauncher())  # its command has ended
    assert len(launcher.started) == 1
