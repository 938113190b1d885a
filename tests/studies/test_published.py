"""The studies on HMDB_simp, compared with the published runs: settings, results, learning rate (golden/README.md)."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.conftest import ROOT
from tests.engine.training import Clips, loader_of, trainer_of
from tests.studies.published_runs import PublishedRuns, read_options
from timesformer.config import load_config
from timesformer.config.differences import differences
from timesformer.config.options import get_option
from timesformer.studies.plan import Choices, Plan, PlannedRow
from timesformer.studies.study import find_study, read_study

PUBLISHED = json.loads((Path(__file__).parents[1] / "golden" / "hmdb_simp_runs.json").read_text())


def rows_of(name: str, tmp_path: Path) -> dict[tuple[str, str], PlannedRow]:
    """The rows of a study with data and weights, by table and name."""
    study = read_study(find_study(name))
    (tmp_path / "weights").mkdir(exist_ok=True)
    for weights in study.pretrained:
        (tmp_path / "weights" / weights).touch()
    weights = {name: str(tmp_path / "weights" / name) for name in study.pretrained}
    plan = Plan(study, Choices(tmp_path / "out", tmp_path, False, 1, (), weights))
    return {(table.table.title, row.row.name): row for table in plan.tables for row in table.rows}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], PlannedRow]:
    """Rows of the study on HMDB_simp. Not to be changed."""
    return rows_of("hmdb_simp", tmp_path_factory.mktemp("hmdb_simp"))


@pytest.mark.parametrize("run", PUBLISHED["runs"], ids=lambda run: run["row"])
def test_published_run_has_a_row_with_its_settings_and_results(
    rows: dict[tuple[str, str], PlannedRow], run: dict[str, Any]
) -> None:
    row = rows[run["table"], run["row"]]
    expected = PUBLISHED["common"] | run["differs"]
    assert {key: get_option(row.cfg, key) for key in expected} == expected
    assert Path(row.cfg.TRAIN.CHECKPOINT_FILE_PATH).name == run["weights"]
    assert [*row.row.published] == run["published"]
    assert row.row.facts.get("in the report") == run.get("report")
    validation = max(map(float, run["validation"].split()), default=None)
    assert row.row.facts.get("validation") == validation
    same = {"DATA.SAMPLER_ORDERED", "SOLVER.STEPS", "SOLVER.LRS", "TRAIN.BATCH_SIZE"}  # part of another change
    changes = len(run["differs"].keys() - same) + (run["weights"] != "K400")
    assert bool(row.row.note) == (changes > 1)


def test_results_that_only_the_report_has(rows: dict[tuple[str, str], PlannedRow]) -> None:
    for name, published in PUBLISHED["report"].items():
        row = rows["tuning", name]
        assert [*row.row.published] == published
        assert row.row.facts["from"] == "report"


def test_figures_of_other_groups(rows: dict[tuple[str, str], PlannedRow]) -> None:
    for title, table in PUBLISHED["other_groups"].items():
        for name, values in table["rows"].items():
            facts = dict(zip(table["columns"], values, strict=True))
            assert rows[title, name].row.facts == {key: value for key, value in facts.items() if value is not None}


def test_controlled_rows_change_one_thing(rows: dict[tuple[str, str], PlannedRow]) -> None:
    title = "one change at a time"
    base = rows[title, "base setting"].cfg
    changes = {
        "constant learning rate": {"SOLVER.LR_POLICY", "SOLVER.STEPS", "SOLVER.LRS"},
        "equidistant": {"DATA.SAMPLER"},
        "random, drawn in each epoch, in order": {"DATA.SAMPLER"},
        "stretched before sampling": set(),
        "stretched after sampling": {"DATA.PRE_SAMPLING.ORDER"},
    }
    for name, keys in changes.items():
        found = {change.key for change in differences(base, rows[title, name].cfg)}
        assert found - {"OUTPUT_DIR"} == keys


def test_base_and_hr_are_as_in_their_notebook(tmp_path: Path) -> None:
    expected, rows = PUBLISHED["base_stratified"], rows_of("hmdb_base_vs_hr", tmp_path)
    title = "base and HR, stratified and plain random split"
    row = rows[title, "base, stratified"]
    assert {key: get_option(row.cfg, key) for key in expected["settings"]} == expected["settings"]
    assert [*row.row.published] == expected["published"]
    assert row.row.published[0] == pytest.approx(100 * expected["correct"] / expected["videos"])
    assert row.row.split.test == expected["videos"] / 1250
    other = rows[title, "base, plain random"].row.split
    assert (row.row.split.stratified, other.stratified) == (True, False)
    assert other.model_copy(update={"stratified": True}) == row.row.split


@pytest.mark.slow
def test_learning_rate_of_a_run_is_that_of_the_event_files(tmp_path: Path) -> None:
    """900 clips in batches of 8 are 113 steps per epoch; here, 113 clips in batches of one."""
    options = ["NUM_GPUS", "0", "TENSORBOARD.ENABLE", "False", "OUTPUT_DIR", str(tmp_path), "LOG_PERIOD", "113"]
    options += ["TRAIN.BATCH_SIZE", "1", "GLOBAL_BATCH_SIZE", "1", "MODEL.NUM_CLASSES", "3"]
    cfg = load_config(ROOT / "configs/HMDB/TimeSformer_divST_8x32_224.yaml", options, check_values=False)
    model = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 3))
    trainer = trainer_of(cfg, model, loader_of(Clips(113), 1))
    for epoch in range(1, cfg.SOLVER.MAX_EPOCH + 1):
        trainer.train_epoch()
        rate = PUBLISHED["learning_rate_after_steps"].get(str(113 * epoch))
        found = trainer.optimizer.param_groups[0]["lr"]
        if rate is not None:
            assert float(f"{found:.{3 if rate > 1e-3 else 1}e}") == rate
            assert trainer.writer.written["train_step"][-1]["lr"] == found
    assert cfg.SOLVER.MAX_EPOCH == 8


@pytest.fixture
def source(shared: Path) -> PublishedRuns:
    return PublishedRuns(shared / "published" / "hmdb_simp_runs.md")


def test_golden_runs_are_those_of_their_source(source: PublishedRuns) -> None:
    common, runs = PUBLISHED["common"], source.runs()
    unnamed = {"TIMESFORMER.ATTENTION_TYPE", "DATA.REVERSE_INPUT_CHANNEL"}  # of the published weights
    assert read_options(source.section("Source A")) == {key: common[key] for key in common.keys() - unnamed}
    assert len(runs) == len(PUBLISHED["runs"])
    for found, run in zip(runs, PUBLISHED["runs"], strict=True):
        assert found["file"].startswith(run["file"])
        assert common | found["differs"] == common | run["differs"]
        keys = ("weights", "published", "validation", "report")
        assert [found.get(key) for key in keys] == [run.get(key) for key in keys]
    rates = re.findall(r"([\d.e-]+) after (\d+)", source.section("Source A"))
    assert {steps: float(rate) for rate, steps in rates} == PUBLISHED["learning_rate_after_steps"]


def test_golden_values_of_others_are_those_of_their_source(source: PublishedRuns) -> None:
    names = {
        **{"TimeSformer": "TimeSformer", "VideoMAE-B": "VideoMAE", "ViViT-B": "ViViT"},
        **{"Head only": "head only", "last 3 or 4 blocks": "head and last 4 blocks", "all": "all blocks"},
        **{"VideoMAE, last 3 or 4 blocks": "VideoMAE, head and last 4 blocks", "VideoMAE, all": "VideoMAE, all blocks"},
        **{"Frames 4": "4 frames", "8": "8 frames", "16": "16 frames"},
    }
    found = [{names[label]: values for label, values in table.items()} for table in source.other_groups()]
    assert found == [table["rows"] for table in PUBLISHED["other_groups"].values()]

    golden, section = PUBLISHED["base_stratified"], source.section("Source B")
    correct, videos, *published = re.search(
        r"Base, stratified.*: (\d+) of (\d+) = ([\d.]+) / ([\d.]+)", section
    ).groups()
    assert [int(correct), int(videos)] == [golden["correct"], golden["videos"]]
    assert [*map(float, published)] == golden["published"]
    options = read_options(section)
    assert {key: options[key] for key in golden["settings"] if key in options} == {
        key: golden["settings"][key] for key in ("SOLVER.BASE_LR", "SOLVER.MAX_EPOCH", "DATA.MEAN", "DATA.STD")
    }
