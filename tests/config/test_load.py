"""Reading configurations: YAML files, bases, overrides, and errors about keys and types."""

import logging
from pathlib import Path

import pytest
import yaml
from fvcore.common.config import CfgNode

from timesformer.config import ConfigError, get_cfg, load_config
from timesformer.config.differences import differences
from timesformer.config.load import load_for_use, override, resembles_key
from timesformer.config.options import OPTIONS, flatten, get_option
from timesformer.config.retired import RENAMED, retired_by

OF_THE_ORIGINAL = """\
TRAIN:
  DATASET: kinetics
  BATCH_SIZE: 8
  CHECKPOINT_TYPE: pytorch
DATA:
  SAMPLING_RATE: 32
  TRAIN_JITTER_SCALES: [256, 320]
  INPUT_CHANNEL_NUM: [3]
TIMESFORMER:
  ATTENTION_TYPE: 'divided_space_time'
SOLVER:
  LR_POLICY: steps_with_relative_lrs
  STEPS: [0, 11, 14]
  LRS: [1, 0.1, 0.01]
  WEIGHT_DECAY: 1e-4
MODEL:
  ARCH: vit
TENSORBOARD:
  PREDICTIONS_PATH: ''
SLOWFAST:
  ALPHA: 4
  BETA_INV: 8
NUM_GPUS: 8
"""


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def load(path: str | Path | None, *overrides: str) -> CfgNode:
    return load_config(path, overrides, check_values=False)


def problems(path: Path | None, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        load(path, *overrides)
    return raised.value.problems


def test_defaults() -> None:
    cfg = load(None)
    cfg.DATA.NUM_FRAMES = 99
    cfg.DATA.MEAN[0] = 0.0
    assert load(None) == get_cfg() != cfg


def test_file_of_the_original(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = load(write(tmp_path, OF_THE_ORIGINAL))
    assert (cfg.DATA.SAMPLING_RATE, cfg.SOLVER.STEPS, cfg.NUM_GPUS) == (32, [0, 11, 14], 8)
    assert cfg.SOLVER.WEIGHT_DECAY == 1e-4  # which YAML reads as text
    (warning,) = caplog.messages
    for key in ("MODEL.ARCH", "TRAIN.CHECKPOINT_TYPE", "TENSORBOARD.PREDICTIONS_PATH", "SLOWFAST"):
        assert key in warning


def test_defaults_of_the_original(golden_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs, ours = load(golden_dir / "defaults.yaml"), get_cfg()
    assert len(caplog.messages) == 1
    theirs.MODEL.MODEL_NAME, theirs.MODEL.DROPOUT_RATE = ours.MODEL.MODEL_NAME, ours.MODEL.DROPOUT_RATE
    theirs.OUTPUT_DIR, theirs.TENSORBOARD.ENABLE = ours.OUTPUT_DIR, ours.TENSORBOARD.ENABLE
    for name in ("CONFUSION_MATRIX", "WRONG_PRED_VIS"):
        theirs.TENSORBOARD[name].ENABLE = ours.TENSORBOARD[name].ENABLE
    assert theirs == ours


def test_options_are_marked_as_new(golden_dir: Path) -> None:
    theirs = flatten(yaml.safe_load((golden_dir / "defaults.yaml").read_text()))
    assert {key for key, option in OPTIONS.items() if option.new} == OPTIONS.keys() - theirs.keys()


def test_no_option_is_retired_or_renamed() -> None:
    assert not [key for key in OPTIONS if retired_by(key) or key in RENAMED]
    assert set(RENAMED.values()) <= OPTIONS.keys()


@pytest.mark.parametrize(("dataset", "sampler"), [("kinetics", "uniform"), ("ssv2", "segment")])
def test_sampler_of_an_earlier_version(tmp_path: Path, dataset: str, sampler: str) -> None:
    text = f"TRAIN: {{DATASET: {dataset}}}\nDATA: {{SAMPLER: '', SAMPLER_ORDERED: true}}\n"
    file, checkpoint = load(write(tmp_path, text)), load_for_use(text, "a checkpoint")[0]
    assert {file.DATA.SAMPLER, checkpoint.DATA.SAMPLER} == {sampler}
    assert not load(write(tmp_path, get_cfg().dump())).DATA.SAMPLER


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_earlier_names(tmp_path: Path, old: str, new: str) -> None:
    value = {"bool": True, "float": 0.5, "str": "blocks"}[type(OPTIONS[new].default).__name__]
    section, _, name = old.partition(".")
    saved = f"{section}: {{{name}: {value}}}\n"
    for cfg in (load(write(tmp_path, saved)), load(None, old, str(value)), load_for_use(saved, "a checkpoint")[0]):
        assert get_option(cfg, new) == value
        assert differences(yaml.safe_load(saved), cfg) == []


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("SOLVER.LRS", "(1, .5, .1)", [1, 0.5, 0.1]),
        ("OUTPUT_DIR", "2024", "2024"),
        ("TRAIN.ENABLE", "false", False),
        ("DATA.PATH_LABEL_SEPARATOR", ",", ","),
        ("SOLVER.BASE_LR", "1", 1.0),
        ("SOLVER.STEPS", "None", []),
        ("DATA.VAL_SUBJECTS", "8", [8]),
        ("DATA.TRANSFORMS", "['a', 'b']", ["a", "b"]),
        ("TRAIN.MIXED_PRECISION", "off", "off"),
        ("MODEL.ACT_CHECKPOINT", "True", "blocks"),
        ("MODEL.ACT_CHECKPOINT", "false", "none"),
        ("MODEL.ACT_CHECKPOINT", "every_2", "every_2"),
    ],
)
def test_values_are_converted(tmp_path: Path, key: str, text: str, value: object) -> None:
    found = get_option(load(None, key, text), key)
    assert (found, type(found)) == (value, type(value))


def test_values_of_yaml_are_converted(tmp_path: Path) -> None:
    text = "MIXUP: {CUTMIX_MINMAX: null}\nTRAIN: {MIXED_PRECISION: off}\nMODEL: {ACT_CHECKPOINT: true}\nDATA:\n"
    cfg = load(write(tmp_path, text), "MIXUP.PROB", "1")
    assert (cfg.MIXUP.CUTMIX_MINMAX, cfg.TRAIN.MIXED_PRECISION, cfg.MODEL.ACT_CHECKPOINT) == ([], "off", "blocks")


def test_base_files(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    write(tmp_path / "base", "DATA:\n  NUM_FRAMES: 4\n  SAMPLING_RATE: 2\n", "a.yaml")
    write(tmp_path / "base", "_BASE_: a.yaml\nDATA:\n  SAMPLING_RATE: 3\n", "b.yaml")
    write(tmp_path, "LOG_PERIOD: 1\nRNG_SEED: 5\n", "c.yaml")
    cfg = load(write(tmp_path, "RNG_SEED: 7\n_BASE_: [c.yaml, base/b.yaml]\n"))
    assert (cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.LOG_PERIOD, cfg.RNG_SEED) == (4, 3, 1, 7)


@pytest.mark.parametrize("base", ["run.yaml", "none.yaml"])
def test_invalid_base_is_named(tmp_path: Path, base: str) -> None:
    (problem,) = problems(write(tmp_path, f"_BASE_: {base}\n"))
    assert base in problem
    assert "_BASE_" in problem


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("DATA.NUM_FRAME", "DATA.NUM_FRAMES"),
        ("SOLVR.BASE_LR", "SOLVER.BASE_LR"),
        ("BATCH_SIZE", "TRAIN.BATCH_SIZE"),
        ("--splits", ""),
        ("DATA", ""),
    ],
)
def test_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    (problem,) = problems(None, key, "1")
    assert problem.startswith(f"{key} ")
    assert nearest in problem


def test_problems_name_their_sources(tmp_path: Path) -> None:
    path = write(tmp_path, "DATA:\n  NUM_FRAMES: eight\n  STDD: 3\n")
    found = problems(path, "TRAIN.ENABLE", "3", "LOG_PERIOD")
    assert len(found) == 4
    expected = (("DATA.NUM_FRAMES", f"({path}:2)"), ("DATA.STDD", f"({path}:3)"), ("TRAIN.ENABLE", "(command line)"))
    for key, source in (*expected, ("LOG_PERIOD", "(command line)")):
        assert [line for line in found if line.startswith(f"{key} ") and line.endswith(source)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATA.NUM_FRAMES", "8.0"),
        ("DATA.NUM_FRAMES", "True"),
        ("SOLVER.BASE_LR", "fast"),
        ("DATA.MEAN", "0.5"),
        ("DATA.MEAN", "[0.5, 'x', 0.5]"),
        ("TRAIN.ENABLE", "1"),
        ("OUTPUT_DIR", "None"),
        ("DATA.PRE_SAMPLING.METHODS", "reverse"),
    ],
)
def test_value_of_another_type(key: str, value: str) -> None:
    (problem,) = problems(None, key, value)
    assert problem.startswith(f"{key} is ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("DATA:\n  A: [1\nB: 2\n", ":3"),
        ("A: 1\n\tB: 2\n", ":2"),
        ("A: !!python/name:os.system ''\n", ":1"),
        ("DATA:\n  NUM_FRAMES: 8\nDATA:\n  SAMPLING_RATE: 4\n", ":3"),
        ("- a\n- b\n", ""),
        ("just words\n", ""),
        ("\x00", ""),
    ],
)
def test_invalid_yaml_names_file_and_line(tmp_path: Path, text: str, line: str) -> None:
    path = write(tmp_path, text)
    assert problems(path)[0].startswith(f"{path}{line} is ")


def test_overrides_of_a_loaded_configuration() -> None:
    cfg = get_cfg()
    changed = override(cfg, ["SOLVER.MAX_EPOCH", "3", "DATA.MEAN", "[0.1, 0.2, 0.3]"])
    assert (changed.SOLVER.MAX_EPOCH, changed.DATA.MEAN, cfg.SOLVER.MAX_EPOCH) == (
        3,
        [0.1, 0.2, 0.3],
        get_cfg().SOLVER.MAX_EPOCH,
    )
    with pytest.raises(ConfigError) as error:
        override(cfg, ["SOLVER.BASE_LEARNING", "1", "SOLVER.MAX_EPOCH", "2.5"])
    assert [problem.split()[0] for problem in error.value.problems] == ["SOLVER.BASE_LEARNING", "SOLVER.MAX_EPOCH"]


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "none.yaml") in problems(tmp_path / "none.yaml")[0]


def test_tilde_is_the_home_directory_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [key for key, option in OPTIONS.items() if option.is_path]
    assert {"OUTPUT_DIR", "DATA.PATH_PREFIX", "TIMESFORMER.PRETRAINED_MODEL"} <= {*paths}
    overrides = [part for key in paths for part in (key, f"~/{key}")]
    (tmp_path / "top.yaml").write_text("OUTPUT_DIR: ~/OUTPUT_DIR\n")
    for cfg in (load("~/top.yaml", *overrides), load_for_use("", "a checkpoint", "~/top.yaml", overrides)[0]):
        assert {key: get_option(cfg, key) for key in paths} == {key: f"{tmp_path}/{key}" for key in paths}
    cfg = load(None, "DATA.PATH_LABEL_SEPARATOR", "~", "OUTPUT_DIR", "runs/~/a", "DATA.SPLIT_GROUPS", "~/a")
    assert (cfg.DATA.PATH_LABEL_SEPARATOR, cfg.OUTPUT_DIR, cfg.DATA.SPLIT_GROUPS) == ("~", "runs/~/a", "~/a")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.yaml").write_bytes("OUTPUT_DIR: läufe\r\nRNG_SEED: 7\r\n".encode(encoding))
    cfg = load(tmp_path / "a.yaml")
    assert (cfg.OUTPUT_DIR, cfg.RNG_SEED) == ("läufe", 7)


def test_configuration_of_a_checkpoint() -> None:
    saved = "DATA: {NUM_FRAMES: 4, FUTURE: 1}\nSOLVER: {BASE_LR: -1.0}\nBN: {EPSILON: 1}\n"
    cfg, notes = load_for_use(saved, "a checkpoint", None, ["DATA.SAMPLING_RATE", "2"])
    assert (cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE) == (4, 2)
    assert ["DATA.FUTURE" in notes[0], "BN" in notes[1], len(notes)] == [True, True, 2]
    for given in (["DATA.NUM_FRAMES", "0"], ["DATA.DECODE_TIMEOUT", "-1"], ["VIVIT.MODEL", "2"]):
        with pytest.raises(ConfigError, match=given[0]):
            load_for_use(saved, "a checkpoint", None, given)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *[(key, True) for key in ("DATA.SAMPLING_RATE", "RNG_SEED", "DATA.SAMPLE", "DAT.SAMPLER", "RESNET.DEPTH")],
        *[(word, False) for word in ("CLIP.DAT", "IMG_0001.MOV", "DATA", "BN", "README", "data.sampler", "a.B", "")],
    ],
)
def test_resembles_key(word: str, expected: bool) -> None:
    assert resembles_key(word) == expected


def test_resuming_in_the_current_folder_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING):
        load(None, "OUTPUT_DIR", ".")
    assert "OUTPUT_DIR" in caplog.text
