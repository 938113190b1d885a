"""Sweeps: options, values and combinations."""

import pytest

from timesformer.studies.plan import Choices, Plan
from timesformer.studies.study import Study, StudyError
from timesformer.studies.sweeps import make_sweep


def test_grid_has_every_combination() -> None:
    sweep = make_sweep(["SOLVER.BASE_LR=0.001,0.0035", "DATA.MEAN=[0.5,0.5,0.5],[0,0,0]", "DATA.SAMPLER=random"])
    table = sweep.table([sweep.row(values) for values in sweep.combinations])
    assert [row.set for row in table.rows] == [
        {"SOLVER.BASE_LR": rate, "DATA.MEAN": mean, "DATA.SAMPLER": "random"}
        for rate in (0.001, 0.0035)
        for mean in ([0.5, 0.5, 0.5], [0, 0, 0])
    ]
    assert table.columns == {"BASE_LR": "SOLVER.BASE_LR", "MEAN": "DATA.MEAN", "SAMPLER": "DATA.SAMPLER"}


RANDOM = ["SOLVER.BASE_LR=loguniform(1e-4, 1e-1)", "MODEL.DROPOUT_RATE=uniform(0,0.5)", "DATA.NUM_FRAMES=4,8"]


def test_random_draws_are_reproducible_and_in_range() -> None:
    draws = [make_sweep(RANDOM, "random", 20, seed).combinations for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert make_sweep(RANDOM, "random", 5, 1).combinations == draws[0][:5]  # more trials continue a sweep
    rates = [drawn["SOLVER.BASE_LR"] for drawn in draws[0]]
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert sum(rate < 10**-2.5 for rate in rates) in range(5, 16)  # half of them on the logarithmic scale
    assert {drawn["DATA.NUM_FRAMES"] for drawn in draws[0]} == {"4", "8"}


def test_random_draws_are_those_of_version_0_1() -> None:
    sweep = make_sweep(RANDOM, "random", 2, 3)
    assert [sweep.row(values).set for values in sweep.combinations] == [
        {"SOLVER.BASE_LR": 0.0005175, "MODEL.DROPOUT_RATE": 0.2721, "DATA.NUM_FRAMES": 8},
        {"SOLVER.BASE_LR": 0.05595, "MODEL.DROPOUT_RATE": 0.237, "DATA.NUM_FRAMES": 4},
    ]


def test_sweep_cells_are_those_of_the_study_with_the_same_options(study: Study, choices: Choices) -> None:
    sweep = make_sweep(["SOLVER.BASE_LR=0.001,0.02"])
    plan = Plan(study, choices, sweep=sweep.table([sweep.row(values) for values in sweep.combinations]))
    assert [cell.cfg.SOLVER.BASE_LR for cell in plan.cells] == [0.001, 0.001, 0.02, 0.02]
    assert plan.cells[0].folder == Plan(study, choices).tables[0].rows[1].cells[0].folder  # the row "slow"
    assert plan.folder.name == "sweep"


@pytest.mark.parametrize(
    "sweeps",
    [
        ["SOLVER.BASE_LR"],
        ["SOLVER.BASE_LR=uniform(2,1)"],
        ["SOLVER.BASE_LR=loguniform(0,1)"],
        ["SOLVER.BASE_LR=uniform(1,2)"],  # a range has no grid
        ["A=1,2", "A=3"],
        ["A=" + ",".join(map(str, range(40))), "B=" + ",".join(map(str, range(40)))],
    ],
)
def test_invalid_sweeps_are_refused(sweeps: list[str]) -> None:
    with pytest.raises(StudyError, match="--sweep"):
        make_sweep(sweeps)
