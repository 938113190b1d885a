"""The cells of a study and their folders."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.studies.conftest import content, finish
from timesformer.config import load_config
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import SPLITS
from timesformer.studies.demo_data import make
from timesformer.studies.plan import Choices, Plan
from timesformer.studies.reproduction import prepare
from timesformer.studies.study import DemoData, Study, StudyError, read_study


def test_a_row_of_several_tables_has_one_cell_per_seed(study: Study, choices: Choices) -> None:
    plan = Plan(study, choices)
    assert len(plan.cells) == 4  # base and slow, two seeds
    assert plan.tables[0].rows[0].cells == plan.tables[1].rows[0].cells
    assert [cell.cfg.RNG_SEED for cell in plan.tables[0].rows[0].cells] == [1, 2]
    assert plan.cells[0].cfg.TRAIN.FINETUNE
    assert plan.cells[0].cfg.TRAIN.CHECKPOINT_FILE_PATH.endswith("k400.pyth")


def test_a_cross_validation_has_a_cell_for_each_fold_and_seed(
    write_study: Callable[[dict], Path], choices: Choices
) -> None:
    study = read_study(write_study(content() | {"folds": 3}))
    cells = Plan(study, choices, [2]).tables[1].rows[0].cells
    found = [(cell.cfg.DATA.FOLD, cell.cfg.RNG_SEED) for cell in cells]
    assert found == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]
    assert {(cell.cfg.DATA.SPLIT_RULE, cell.cfg.DATA.NUM_FOLDS) for cell in cells} == {("folds", 3)}
    assert len(Plan(study, replace(choices, folds=(2,)), [2]).cells) == 2
    with pytest.raises(StudyError, match="--fold 4"):
        Plan(study, replace(choices, folds=(4,)))


def test_only_options_that_affect_results_change_the_folder(study: Study, choices: Choices) -> None:
    def folders(*options: str) -> list[Path]:
        return [cell.folder for cell in Plan(study, replace(choices, options=options)).cells]

    assert folders("DATA_LOADER.NUM_WORKERS", "3", "LOG_PERIOD", "5", "OUTPUT_DIR", "output/tiny") == folders()
    assert not set(folders("SOLVER.MAX_EPOCH", "3")) & set(folders())


def test_one_table_needs_its_own_cells_only(study: Study, choices: Choices) -> None:
    plan = Plan(study, choices, [2])
    assert len(plan.cells) == 2
    assert [table.number for table in plan.tables] == [1, 2]
    with pytest.raises(StudyError, match="--table 3"):
        Plan(study, choices, [3])


def test_describe_lists_finished_cells(study: Study, choices: Choices) -> None:
    plan = Plan(study, choices)
    finish(plan.cells[0], 50.0)
    assert [line.split()[0] for line in plan.describe()] == ["finished", "to", "to", "to", "4"]
    (plan.cells[0].folder / "results.json").write_text('{"top1": ')
    assert plan.describe()[0].startswith("to run")


def test_results_with_other_defaults_are_refused(study: Study, choices: Choices, tiny_data: Path) -> None:
    plan = Plan(study, replace(choices, data=tiny_data, options=("MODEL.NUM_CLASSES", "3")))
    then = yaml.safe_load(plan.cells[0].cfg.dump())
    del then["TRAIN"]["TF32"]  # an option that did not exist yet
    finish(plan.cells[0], 50.0, config=then)
    prepare(plan, check_gpus=True)
    then["SOLVER"]["MOMENTUM"] = 0.8
    finish(plan.cells[0], 50.0, config=then)
    with pytest.raises(StudyError, match=r"SOLVER.MOMENTUM.*0.8.*0.9"):
        prepare(plan, check_gpus=True)


def test_demo_cells_start_from_a_pretraining_cell(study: Study, tmp_path: Path) -> None:
    plan = Plan(study, Choices(tmp_path / "out", tmp_path, True, 1))
    pretraining, base, _ = plan.cells
    assert pretraining.parent is None
    assert base.parent is pretraining
    assert str(pretraining.folder / "checkpoints" / "best.pyth") == base.cfg.TRAIN.CHECKPOINT_FILE_PATH
    assert not pretraining.cfg.TRAIN.FINETUNE
    changed = Plan(study, Choices(tmp_path / "out", tmp_path, True, 1, ("SOLVER.MAX_EPOCH", "3")))
    assert changed.cells[0].folder == pretraining.folder  # the stand-in for published weights is not varied
    assert changed.cells[1].folder != base.folder


def test_missing_weights_are_named_with_their_source(study: Study, choices: Choices) -> None:
    with pytest.raises(StudyError, match="--weights K400=zoo:TimeSformer_divST_8x32_224_K400"):
        Plan(study, replace(choices, weights={}))


def test_missing_data_are_reported_with_the_command_that_prepares_them(study: Study, choices: Choices) -> None:
    with pytest.raises(StudyError, match=r"python datasets/hmdb_simp/prepare\.py"):
        Plan(study, replace(choices, data=None))
    for data in (choices.data / "missing", choices.data):  # a missing folder, and one without clips
        with pytest.raises(StudyError, match=r"python datasets/hmdb_simp/prepare\.py"):
            prepare(Plan(study, replace(choices, data=data)), check_gpus=True)


def test_a_dry_run_lists_missing_data_and_weights(
    tmp_path: Path,
    write_study: Callable[[dict], Path],
    tiny_data: Path,
    reproduce_tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "k400.pyth").touch()
    path, there = str(write_study(content())), ["--data", str(tiny_data), "--weights", f"K400={tmp_path}/k400.pyth"]
    expected = {
        (): ["--data FOLDER", "--weights K400=zoo:TimeSformer_divST_8x32_224_K400"],
        ("--data", "/nonexistent"): ["/nonexistent", "--weights K400=zoo:TimeSformer_divST_8x32_224_K400"],
        (*there[:2], "--weights", "K400=/nonexistent.pyth"): ["/nonexistent.pyth"],
        tuple(there): [],
        ("--demo",): [],
    }
    for options, names in expected.items():
        output = tmp_path / "out"
        monkeypatch.setattr("sys.argv", ["reproduce.py", path, "--output", str(output), "--dry-run", *options])
        assert reproduce_tool.main() == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("missing: ", "problem: "))]
        assert len(lines) == len(names), lines
        assert all(any(name in line for line in lines) for name in names), lines
        assert not output.exists()


def test_invalid_options_are_reported_with_the_row(study: Study, choices: Choices, tiny_data: Path) -> None:
    for options in (("SOLVER.RATE", "1"), ("SOLVER.BASE_LR",)):
        with pytest.raises(StudyError, match=options[0]):
            Plan(study, replace(choices, options=options))
    with pytest.raises(StudyError, match=r"table 1, base, seed 1(?s:.*)DATA.NUM_FRAMES"):
        prepare(Plan(study, replace(choices, data=tiny_data, options=("DATA.NUM_FRAMES", "0"))), check_gpus=True)


@pytest.mark.slow
def test_generated_clips_get_the_layout_of_other_datasets(tmp_path: Path) -> None:
    for layout in ("hmdb_simp", "muwiges", "ucf101"):
        folder = make(DemoData(seed=5, clips=(8, 2, 2), classes=("left", "right"), layout=layout), tmp_path, 1)
        options = ["TRAIN.DATASET", layout, "TEST.DATASET", layout, "MODEL.NUM_CLASSES", "2"]
        options += ["DATA.PATH_TO_DATA_DIR", str(folder)]
        options += ["DATA.VAL_FRACTION", "0.2"] if layout == "ucf101" else []
        cfg = load_config(None, options, check_values=False)
        splits = [load_split(cfg, split) for split in SPLITS]
        assert [len(split.records) for split in splits] == [16, 4, 4]
        assert all(split.class_names == ("left", "right") for split in splits)
        assert all(Path(record.path).is_file() for split in splits for record in split.records)
