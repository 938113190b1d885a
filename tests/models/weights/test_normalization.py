"""A warning where DATA.MEAN and DATA.STD are not those of the weights, wherever the weights come from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from tests.conftest import Outcome
from timesformer.config import get_cfg
from timesformer.config.load import CfgNode
from timesformer.inference.classifier import load_model
from timesformer.models import build_model
from timesformer.paths import HTTPHandler

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINETICS = ((0.45,) * 3, (0.225,) * 3)  # the default
WARNING = "expect DATA.MEAN"


def small_cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.NUM_FRAMES, cfg.MODEL.NUM_CLASSES = 16, 2, 3
    cfg.TIMESFORMER.EMBED_DIM, cfg.TIMESFORMER.DEPTH, cfg.TIMESFORMER.NUM_HEADS = 16, 1, 2
    return cfg


def save_weights(path: Path, normalization: tuple | None = None) -> None:
    """A state dict alone, or with the configuration it was trained with."""
    cfg = small_cfg()
    content: dict[str, Any] = {"model_state": build_model(cfg).state_dict()}
    if normalization:
        cfg.DATA.MEAN, cfg.DATA.STD = map(list, normalization)
        content["cfg"] = cfg.dump()
    torch.save(content, path)


def save_folder(folder: Path, **files: dict[str, Any]) -> None:
    """A folder as of the Hugging Face hub: weights and JSON files."""
    folder.mkdir()
    save_weights(folder / "pytorch_model.bin")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def processor(mean: tuple, std: tuple, **others: Any) -> dict[str, Any]:
    return {"image_mean": list(mean), "image_std": list(std), "rescale_factor": 1 / 255, **others}


def timm_config(mean: tuple, std: tuple) -> dict[str, Any]:
    return {"mean": list(mean), "std": list(std), "input_size": [3, 224, 224]}


# Files of a folder, and the mean and std that its weights expect (None: unknown).
FOLDERS = {
    "processor": ({"config": {}, "preprocessor_config": processor(*IMAGENET)}, IMAGENET),
    "timm": ({"config": {"architecture": "vit", "pretrained_cfg": timm_config(*IMAGENET)}}, IMAGENET),
    "older timm": ({"config": {"architecture": "vit", **timm_config(*IMAGENET)}}, IMAGENET),
    "no processor": ({"config": {"model_type": "timesformer"}}, None),
    "ViViT of the hub": (  # its processor normalizes twice, unlike the training
        {
            "config": {"model_type": "vivit"},
            "preprocessor_config": processor((0.5,) * 3, (0.5,) * 3, offset=True, rescale_factor=1 / 127.5),
        },
        None,
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    files, expected = FOLDERS[kind]
    save_folder(tmp_path / "folder", **files)
    check(str(tmp_path / "folder"), expected, caplog)


@pytest.mark.parametrize("expected", [IMAGENET, None])
def test_file(tmp_path: Path, caplog: pytest.LogCaptureFixture, expected: tuple | None) -> None:
    save_weights(tmp_path / "weights.pyth", expected)
    check(str(tmp_path / "weights.pyth"), expected, caplog)


def test_names(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    save_folder(tmp_path / "folder", config={"pretrained_cfg": timm_config(*IMAGENET)})
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **options: str(tmp_path / "folder"))
    check("timm:vit_tiny.augreg", IMAGENET, caplog)
    check("hf:owner/name", IMAGENET, caplog)
    save_weights(tmp_path / "weights.pyth")
    monkeypatch.setattr(HTTPHandler, "_get_local_path", lambda *args, **options: str(tmp_path / "weights.pyth"))
    check("zoo:TimeSformer_divST_8x32_224_K400", KINETICS, caplog)


def check(source: str, expected: tuple | None, caplog: pytest.LogCaptureFixture) -> None:
    """A model that starts from `source` warns about other values, unless they are unknown, and not about its own."""
    cfg = small_cfg()
    cfg.TIMESFORMER.PRETRAINED_MODEL = source
    cfg.DATA.MEAN = cfg.DATA.STD = [0.3, 0.3, 0.3]
    caplog.clear()
    build_model(cfg)
    found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(found) == (expected is not None)
    if expected is not None:
        assert source in found[0]
        assert str(list(expected[0])) in found[0]
        cfg.DATA.MEAN, cfg.DATA.STD = ([value + 5e-4 for value in values] for values in expected)  # rounding
        caplog.clear()
        build_model(cfg)
        assert WARNING not in caplog.text


@pytest.mark.slow
def test_training_and_test_warn(
    run_net: Callable[..., Outcome], tiny_command: list[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    assert run_net(*tiny_command, "SOLVER.MAX_EPOCH", "1", "OUTPUT_DIR", str(tmp_path / "first")).code == 0
    other = ["DATA.MEAN", "[0.5, 0.5, 0.5]", "OUTPUT_DIR"]
    trained = str(tmp_path / "first" / "checkpoints" / "checkpoint_epoch_00001.pyth")
    ways = {
        "continued": ["TRAIN.CHECKPOINT_FILE_PATH", trained, "TEST.ENABLE", "False"],
        "finetuned": ["TRAIN.CHECKPOINT_FILE_PATH", trained, "TRAIN.FINETUNE", "True", "TEST.ENABLE", "False"],
        "pretrained": ["TIMESFORMER.PRETRAINED_MODEL", trained, "TEST.ENABLE", "False"],
        "tested": ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", trained],
    }
    for name, options in ways.items():
        ended = run_net(*tiny_command, *other, str(tmp_path / name), *options)
        assert ended.code == 0
        assert (tmp_path / name / "run.log").read_text().count(WARNING) == 1, name


def test_prediction_notes_it(tiny_checkpoint: Path) -> None:
    assert load_model(tiny_checkpoint, "cpu").notes == []
    (note,) = load_model(tiny_checkpoint, "cpu", ["DATA.STD", "[0.5, 0.5, 0.5]"]).notes
    assert WARNING in note
