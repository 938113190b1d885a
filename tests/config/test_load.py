"""Reading configurations: files, bases, overrides, and what is said about keys and types that are wrong."""

import logging
from functools import reduce
from pathlib import Path

import pytest
import yaml

from timesformer.config import ConfigError, get_cfg, load_config
from timesformer.config.differences import differences
from timesformer.config.load import load_for_use, resembles_key
from timesformer.config.options import OPTIONS, flatten, get_option
from timesformer.config.retired import RENAMED, RETIRED

# Written as the files of the original are: some keys serve, some are retired.
OF_THE_ORIGINAL = """\
TRAIN:
  ENABLE: True
  DATASET: kinetics
  BATCH_SIZE: 8
  EVAL_PERIOD: 5
  CHECKPOINT_PERIOD: 5
  AUTO_RESUME: True
  CHECKPOINT_TYPE: pytorch
DATA:
  PATH_TO_DATA_DIR: /path/to/kinetics
  NUM_FRAMES: 8
  SAMPLING_RATE: 32
  TRAIN_JITTER_SCALES: [256, 320]
  TRAIN_CROP_SIZE: 224
  TEST_CROP_SIZE: 224
  INPUT_CHANNEL_NUM: [3]
  TARGET_FPS: 30
TIMESFORMER:
  ATTENTION_TYPE: 'divided_space_time'
SOLVER:
  BASE_LR: 0.005
  LR_POLICY: steps_with_relative_lrs
  STEPS: [0, 11, 14]
  LRS: [1, 0.1, 0.01]
  MAX_EPOCH: 15
  MOMENTUM: 0.9
  WEIGHT_DECAY: 1e-4
  OPTIMIZING_METHOD: sgd
MODEL:
  MODEL_NAME: vit_base_patch16_224
  NUM_CLASSES: 400
  ARCH: vit
  LOSS_FUNC: cross_entropy
TEST:
  ENABLE: True
  DATASET: kinetics
  BATCH_SIZE: 8
  NUM_ENSEMBLE_VIEWS: 1
  NUM_SPATIAL_CROPS: 3
  CHECKPOINT_TYPE: pytorch
TENSORBOARD:
  ENABLE: False
  CONFUSION_MATRIX:
    ENABLE: True
    SUBSET_PATH: ''
  PREDICTIONS_PATH: ''
SLOWFAST:
  ALPHA: 4
  BETA_INV: 8
DATA_LOADER:
  NUM_WORKERS: 8
  PIN_MEMORY: True
NUM_GPUS: 8
NUM_SHARDS: 1
RNG_SEED: 0
OUTPUT_DIR: ./somewhere
"""


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problems(path: Path | None, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        load_config(path, overrides, check_values=False)
    return raised.value.problems


def test_without_a_file_the_defaults_are_returned() -> None:
    assert load_config(None, check_values=False) == get_cfg()


def test_get_cfg_copies_are_independent() -> None:
    get_cfg().DATA.NUM_FRAMES = 99
    assert get_cfg().DATA.NUM_FRAMES == 8


def test_a_file_of_the_original_loads_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(write(tmp_path, OF_THE_ORIGINAL), check_values=False)
    assert (cfg.DATA.SAMPLING_RATE, cfg.SOLVER.STEPS, cfg.NUM_GPUS) == (32, [0, 11, 14], 8)
    assert cfg.SOLVER.WEIGHT_DECAY == 1e-4  # which YAML reads as text
    (warning,) = caplog.messages
    for key in ("MODEL.ARCH", "TEST.CHECKPOINT_TYPE", "TENSORBOARD.PREDICTIONS_PATH", "SLOWFAST"):
        assert key in warning


@pytest.mark.parametrize(("dataset", "sampler"), [("kinetics", "uniform"), ("ssv2", "segment")])
def test_a_configuration_that_an_earlier_version_saved_keeps_its_sampler(
    tmp_path: Path, dataset: str, sampler: str
) -> None:
    text = f"TRAIN: {{DATASET: {dataset}}}\nDATA: {{SAMPLER: '', SAMPLER_ORDERED: true}}\n"
    file, checkpoint = load_config(write(tmp_path, text), check_values=False), load_for_use(text, "a checkpoint")[0]
    assert {file.DATA.SAMPLER, checkpoint.DATA.SAMPLER} == {sampler}
    present = load_config(write(tmp_path, get_cfg().dump()), check_values=False)
    assert not present.DATA.SAMPLER


def test_a_file_with_the_options_of_this_project_gives_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_config(write(tmp_path, "DATA:\n  NUM_FRAMES: 16\n"), check_values=False)
    assert not caplog.messages


def test_every_default_of_the_original_is_accepted_with_one_warning(
    golden_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = load_config(golden_dir / "defaults.yaml", check_values=False)
    assert len(caplog.messages) == 1
    assert cfg.MODEL.MODEL_NAME == "SlowFast"


def test_defaults_are_those_of_the_original_but_for_the_explained_ones(golden_dir: Path) -> None:
    theirs = load_config(golden_dir / "defaults.yaml", check_values=False)
    ours = get_cfg()
    theirs.MODEL.MODEL_NAME, theirs.MODEL.DROPOUT_RATE = ours.MODEL.MODEL_NAME, ours.MODEL.DROPOUT_RATE
    theirs.OUTPUT_DIR, theirs.TENSORBOARD.ENABLE = ours.OUTPUT_DIR, ours.TENSORBOARD.ENABLE
    for name in ("CONFUSION_MATRIX", "WRONG_PRED_VIS"):
        theirs.TENSORBOARD[name].ENABLE = ours.TENSORBOARD[name].ENABLE
    assert theirs == ours


def test_no_option_is_retired_and_read() -> None:
    for key in RETIRED:
        *sections, name = key.split(".")
        assert name not in reduce(lambda node, section: node[section], sections, get_cfg())


def test_a_number_for_a_list_of_numbers_is_a_list_of_one() -> None:
    assert load_config(None, ["DATA.VAL_SUBJECTS", "8"], check_values=False).DATA.VAL_SUBJECTS == [8]


def test_an_argument_after_the_pairs_is_sent_before_them() -> None:
    with pytest.raises(ConfigError, match="--splits belongs before the KEY VALUE pairs"):
        load_config(None, ["SOLVER.MAX_EPOCH", "1", "--splits", "1"])


def test_overrides_win_over_the_file_and_are_read_as_literals(tmp_path: Path) -> None:
    path = write(tmp_path, OF_THE_ORIGINAL)
    overrides = ["DATA.NUM_FRAMES", "16", "SOLVER.LRS", "(1, .5, .1)", "OUTPUT_DIR", "2024", "TRAIN.ENABLE", "false"]
    overrides += ["DATA.PATH_LABEL_SEPARATOR", ",", "SOLVER.BASE_LR", "1"]
    cfg = load_config(path, overrides, check_values=False)
    assert cfg.DATA.NUM_FRAMES == 16
    assert cfg.SOLVER.LRS == [1, 0.5, 0.1]
    assert cfg.OUTPUT_DIR == "2024"
    assert cfg.TRAIN.ENABLE is False
    assert cfg.DATA.PATH_LABEL_SEPARATOR == ","
    assert isinstance(cfg.SOLVER.BASE_LR, float)


def test_none_is_an_empty_list(tmp_path: Path) -> None:
    cfg = load_config(write(tmp_path, "MIXUP: {CUTMIX_MINMAX: null}"), ["SOLVER.STEPS", "None"], check_values=False)
    assert cfg.MIXUP.CUTMIX_MINMAX == cfg.SOLVER.STEPS == []


def test_a_word_that_yaml_reads_as_a_boolean_stays_a_word_where_text_is_expected(tmp_path: Path) -> None:
    path = write(tmp_path, "TRAIN:\n  MIXED_PRECISION: off\n")
    assert load_config(path, check_values=False).TRAIN.MIXED_PRECISION == "off"


def test_base_files_are_read_first_and_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    write(tmp_path / "base", "DATA:\n  NUM_FRAMES: 4\n  SAMPLING_RATE: 2\n", "a.yaml")
    write(tmp_path / "base", "_BASE_: a.yaml\nDATA:\n  SAMPLING_RATE: 3\n", "b.yaml")
    cfg = load_config(write(tmp_path, "LOG_PERIOD: 7\n_BASE_: base/b.yaml\n"), check_values=False)
    assert (cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.LOG_PERIOD) == (4, 3, 7)


def test_of_several_bases_the_later_wins(tmp_path: Path) -> None:
    write(tmp_path, "LOG_PERIOD: 1\nRNG_SEED: 5\n", "a.yaml")
    write(tmp_path, "LOG_PERIOD: 2\n", "b.yaml")
    cfg = load_config(write(tmp_path, "_BASE_: [a.yaml, b.yaml]\n"), check_values=False)
    assert (cfg.LOG_PERIOD, cfg.RNG_SEED) == (2, 5)


def test_a_file_that_is_its_own_base_is_an_error(tmp_path: Path) -> None:
    assert "among its own _BASE_" in problems(write(tmp_path, "_BASE_: run.yaml\n"))[0]


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path, "_BASE_: none.yaml\n"))
    assert "none.yaml cannot be read" in problem
    assert "_BASE_" in problem


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("DATA.NUM_FRAME", "DATA.NUM_FRAMES"),
        ("data.num_frames", "DATA.NUM_FRAMES"),
        ("SOLVR.BASE_LR", "SOLVER.BASE_LR"),
        ("BATCH_SIZE", "TRAIN.BATCH_SIZE"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    assert problems(None, key, "1") == (f"{key} is not an option; the nearest is {nearest} (command line)",)


def test_all_problems_of_a_file_and_the_command_line_come_together_with_their_places(tmp_path: Path) -> None:
    path = write(tmp_path, "DATA:\n  NUM_FRAMES: eight\n  STDD: 3\n")
    found = problems(path, "TRAIN.ENABLE", "3", "LOG_PERIOD")
    assert len(found) == 4
    text = "\n".join(found)
    assert f"DATA.NUM_FRAMES is 'eight', expected a whole number ({path}:2)" in text
    assert f"DATA.STDD is not an option; the nearest is DATA.STD ({path}:3)" in text
    assert "TRAIN.ENABLE is 3, expected true or false (command line)" in text
    assert "LOG_PERIOD has no value" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATA.NUM_FRAMES", "8.0"),
        ("DATA.NUM_FRAMES", "True"),
        ("SOLVER.BASE_LR", "fast"),
        ("SOLVER.BASE_LR", "True"),
        ("DATA.MEAN", "0.5"),
        ("DATA.MEAN", "[0.5, 'x', 0.5]"),
        ("TRAIN.ENABLE", "1"),
        ("OUTPUT_DIR", "None"),
        ("DATA.PRE_SAMPLING.METHODS", "reverse"),
    ],
)
def test_a_value_of_another_type_is_an_error_naming_the_key(key: str, value: str) -> None:
    (problem,) = problems(None, key, value)
    assert problem.startswith(f"{key} is ")
    assert "expected" in problem


def test_a_value_in_place_of_a_section_is_an_error() -> None:
    assert "is a section" in problems(None, "DATA", "8")[0]


def test_an_empty_section_changes_nothing(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "DATA:\n"), check_values=False) == get_cfg()


@pytest.mark.parametrize(
    ("text", "line"), [("DATA:\n  A: [1\nB: 2\n", 3), ("A: 1\n\tB: 2\n", 2), ("A: !!python/name:os.system ''\n", 1)]
)
def test_broken_yaml_is_reported_with_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    path = write(tmp_path, text)
    assert problems(path)[0].startswith(f"{path}:{line} is not valid YAML")


def test_a_key_given_twice_in_a_file_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, "DATA:\n  NUM_FRAMES: 8\nDATA:\n  SAMPLING_RATE: 4\n")
    assert problems(path) == (f"{path}:3 is not valid YAML: DATA is given twice",)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n"])
def test_yaml_that_is_no_mapping_is_an_error(tmp_path: Path, text: str) -> None:
    assert "not a configuration" in problems(write(tmp_path, text))[0]


def test_a_tilde_in_a_path_is_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [key for key, option in OPTIONS.items() if option.is_path]
    sections = [key for key in paths if "." in key]
    lines = "".join(f"{key}: ~/{key}\n" for key in paths if "." not in key)
    (tmp_path / "top.yaml").write_text(lines)
    for given in (
        load_config("~/top.yaml", [part for key in sections for part in (key, f"~/{key}")], check_values=False),
        load_for_use(lines, "a checkpoint", None, [part for key in sections for part in (key, f"~/{key}")])[0],
    ):
        found = flatten(given)
        assert {key: found[key] for key in paths} == {key: f"{tmp_path}/{key}" for key in paths}


def test_a_tilde_elsewhere_is_a_tilde() -> None:
    given = ["DATA.PATH_LABEL_SEPARATOR", "~", "OUTPUT_DIR", "runs/~/a", "DATA.SPLIT_GROUPS", "~/a"]
    cfg = load_config(None, given, check_values=False)
    assert (cfg.DATA.PATH_LABEL_SEPARATOR, cfg.OUTPUT_DIR, cfg.DATA.SPLIT_GROUPS) == ("~", "runs/~/a", "~/a")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.yaml").write_bytes("OUTPUT_DIR: läufe\r\nRNG_SEED: 7\r\n".encode(encoding))
    cfg = load_config(tmp_path / "a.yaml", check_values=False)
    assert (cfg.OUTPUT_DIR, cfg.RNG_SEED) == ("läufe", 7)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *[(key, True) for key in ("DATA.SAMPLING_RATE", "RNG_SEED", "DATA.SAMPLE", "DAT.SAMPLER", "RESNET.DEPTH")],
        *[(word, False) for word in ("CLIP.DAT", "IMG_0001.MOV", "DATA", "BN", "README", "data.sampler", "a.B", "")],
    ],
)
def test_which_words_are_meant_as_options(word: str, expected: bool) -> None:
    assert resembles_key(word) == expected


def test_a_missing_file_and_a_file_that_is_not_text_are_errors(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"\x00\x00\x00\x20ftypisom\xff")
    assert "No such file" in problems(tmp_path / "none.yaml")[0]
    assert "not a text file" in problems(tmp_path / "video.mp4")[0]


def test_resuming_in_the_current_folder_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING):
        load_config(None, ["OUTPUT_DIR", "."], check_values=False)
    assert "OUTPUT_DIR is the current folder" in caplog.text


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_earlier_names_are_accepted(tmp_path: Path, old: str, new: str) -> None:
    value = {"bool": True, "float": 0.5, "str": "blocks"}[type(OPTIONS[new].default).__name__]
    saved = f"{old.partition('.')[0]}: {{{old.partition('.')[2]}: {value}}}\n"
    for cfg in (
        load_config(write(tmp_path, saved), check_values=False),
        load_config(None, [old, str(value)], check_values=False),
        load_for_use(saved, "a checkpoint")[0],
    ):
        assert get_option(cfg, new) == value
    assert differences(yaml.safe_load(saved), cfg) == []


@pytest.mark.parametrize(("value", "expected"), [("True", "blocks"), ("false", "none"), ("every_2", "every_2")])
def test_activation_checkpointing_as_in_slowfast(tmp_path: Path, value: str, expected: str) -> None:
    file = write(tmp_path, f"MODEL: {{ACT_CHECKPOINT: {value}}}\n")
    given = ["MODEL.ACT_CHECKPOINT", value]
    for cfg in (load_config(file, check_values=False), load_config(None, given, check_values=False)):
        assert expected == cfg.MODEL.ACT_CHECKPOINT
