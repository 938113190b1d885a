"""Which cells a study has, and where they lie."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.studies.conftest import finish
from timesformer.datasets.records import SPLITS
from timesformer.studies.cells import Choices
from timesformer.studies.reproduction import describe, plan, prepare
from timesformer.studies.study import Study, StudyError


def test_a_row_of_several_tables_is_one_cell_for_each_seed(study: Study, choices: Choices) -> None:
    planned = plan(study, choices)
    assert len(planned.cells) == 4  # base and slow, two seeds
    assert planned.tables[0].rows[0].cells == planned.tables[1].rows[0].cells
    assert [cell.cfg.RNG_SEED for cell in planned.tables[0].rows[0].cells] == [1, 2]
    assert planned.cells[0].cfg.TRAIN.FINETUNE
    assert planned.cells[0].cfg.TRAIN.CHECKPOINT_FILE_PATH.endswith("k400.pyth")


def test_another_configuration_lies_elsewhere_and_what_changes_no_result_does_not(
    study: Study, choices: Choices
) -> None:
    def folders(*options: str) -> list[Path]:
        return [cell.folder for cell in plan(study, replace(choices, options=options)).cells]

    assert folders("DATA_LOADER.NUM_WORKERS", "3", "LOG_PERIOD", "5", "NUM_GPUS", "2") == folders()
    assert not set(folders("SOLVER.MAX_EPOCH", "3")) & set(folders())


def test_one_table_alone_has_its_own_cells_and_the_page_has_all(study: Study, choices: Choices) -> None:
    planned = plan(study, choices, [2])
    assert len(planned.cells) == 2
    assert [table.number for table in planned.tables] == [1, 2]
    with pytest.raises(StudyError, match="--table 3: study has tables 1 to 2"):
        plan(study, choices, [3])


def test_the_list_of_cells_tells_which_are_finished(study: Study, choices: Choices) -> None:
    planned = plan(study, choices)
    finish(planned.cells[0], 50.0)
    lines = describe(planned)
    assert [line.split()[0] for line in lines] == ["finished", "to", "to", "to", "4"]
    assert lines[-1].startswith("4 cells, 3 of them to run")
    (planned.cells[0].folder / "results.json").write_text('{"top1": ')
    assert describe(planned)[0].startswith("to run")


def test_results_of_a_time_with_another_default_are_refused(study: Study, choices: Choices, tiny_data: Path) -> None:
    planned = plan(study, replace(choices, data=tiny_data, options=("MODEL.NUM_CLASSES", "3")))
    then = yaml.safe_load(planned.cells[0].cfg.dump())
    del then["TRAIN"]["TF32"]  # an option that did not exist yet
    finish(planned.cells[0], 50.0, config=then)
    prepare(planned, check_gpus=True)
    then["SOLVER"]["MOMENTUM"] = 0.8
    finish(planned.cells[0], 50.0, config=then)
    with pytest.raises(StudyError, match=r"holds results of other options .*: SOLVER.MOMENTUM was 0.8, is 0.9"):
        prepare(planned, check_gpus=True)


def test_the_cells_of_the_demo_start_from_a_cell_of_its_own(study: Study, tmp_path: Path) -> None:
    planned = plan(study, Choices(tmp_path / "out", tmp_path, True, 1))
    pretraining, base, _ = planned.cells
    assert pretraining.parent is None
    assert base.parent is pretraining
    assert str(pretraining.folder / "checkpoints" / "best.pyth") == base.cfg.TRAIN.CHECKPOINT_FILE_PATH
    assert not pretraining.cfg.TRAIN.FINETUNE
    changed = plan(study, Choices(tmp_path / "out", tmp_path, True, 1, ("SOLVER.MAX_EPOCH", "3")))
    assert changed.cells[0].folder == pretraining.folder  # as published weights would stay what they are
    assert changed.cells[1].folder != base.folder


def test_missing_weights_are_told_with_option_and_name(study: Study, choices: Choices) -> None:
    with pytest.raises(StudyError, match="--weights K400=FILE, or --weights K400=zoo:TimeSformer_divST_8x32_224_K400"):
        plan(study, replace(choices, weights={}))


def test_missing_data_are_told_with_the_command_that_prepares_them(study: Study, choices: Choices) -> None:
    with pytest.raises(StudyError, match=r"give --data FOLDER, prepared by `python datasets/hmdb_simp/prepare.py"):
        plan(study, replace(choices, data=None))
    for data in (choices.data / "nowhere", choices.data):  # a folder that is not there, and one without clips
        with pytest.raises(StudyError, match=r"study expects its data prepared by `python datasets/hmdb_simp/prep"):
            prepare(plan(study, replace(choices, data=data)), check_gpus=True)


def test_options_that_make_no_sense_are_told_with_the_row(study: Study, choices: Choices, tiny_data: Path) -> None:
    with pytest.raises(
        StudyError, match=r"table 1, base \(.*tiny.yaml\): the conf.*:\n  - SOLVER.RATE is not an option"
    ):
        plan(study, replace(choices, options=("SOLVER.RATE", "1")))
    with pytest.raises(StudyError, match=r"table 1, base, seed 1 cannot run:\n  - DATA.NUM_FRAMES is 0"):
        prepare(plan(study, replace(choices, data=tiny_data, options=("DATA.NUM_FRAMES", "0"))), check_gpus=True)


def test_made_clips_are_laid_out_as_the_datasets_they_stand_for(tmp_path: Path) -> None:
    from timesformer.config import load_config
    from timesformer.datasets.catalog import load_split
    from timesformer.studies.demo_data import make
    from timesformer.studies.study import DemoData

    counts = {}
    for layout in ("hmdb_simp", "muwiges", "ucf101"):
        folder = make(DemoData(5, (8, 2, 2), ("left", "right"), layout), tmp_path, 1)
        options = ["TRAIN.DATASET", layout, "TEST.DATASET", layout, "MODEL.NUM_CLASSES", "2"]
        options += ["DATA.PATH_TO_DATA_DIR", str(folder)]
        options += ["DATA.VAL_FRACTION", "0.2"] if layout == "ucf101" else []
        cfg = load_config(None, options, check_values=False)
        splits = {split: load_split(cfg, split) for split in SPLITS}
        counts[layout] = [len(split.records) for split in splits.values()]
        assert all(split.class_names == ("left", "right") for split in splits.values())
        assert all(Path(record.path).is_file() for split in splits.values() for record in split.records)
    assert counts == {"hmdb_simp": [16, 4, 4], "muwiges": [16, 4, 4], "ucf101": [16, 4, 4]}
