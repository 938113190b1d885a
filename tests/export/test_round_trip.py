"""Exported files give the logits of the model, computed by ONNX Runtime, OpenVINO and torch.export themselves."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch

from tests.models.small import randomize
from timesformer.config import load_config
from timesformer.export.exporting import ExportOptions, export
from timesformer.inference.classifier import Classifier, load_model
from timesformer.models import build_model
from timesformer.models.weights.exported import FORMATS

TUBELETS = ["VIVIT.TUBELET_SIZE", "[1, 8, 8]"]
MODELS = {
    "divided": [],
    "divided, other test size": ["DATA.TEST_CROP_SIZE", "24"],
    "joint": ["TIMESFORMER.ATTENTION_TYPE", "joint_space_time"],
    "space only": ["TIMESFORMER.ATTENTION_TYPE", "space_only"],
    "attentive head": ["MODEL.HEAD", "attentive"],
    "temporal head": ["MODEL.HEAD", "temporal"],
    "ViViT 1": ["MODEL.MODEL_NAME", "ViViT", *TUBELETS, "VIVIT.MODEL", "1"],
    "ViViT 2": ["MODEL.MODEL_NAME", "ViViT", *TUBELETS, "VIVIT.MODEL", "2"],
    "ViViT 3": ["MODEL.MODEL_NAME", "ViViT", *TUBELETS, "VIVIT.MODEL", "3"],
    "VideoMAE": ["MODEL.MODEL_NAME", "VideoMAE", "VIVIT.TUBELET_SIZE", "[2, 8, 8]"],
    "torchvision": ["MODEL.MODEL_NAME", "torchvision/r3d_18"],
}

pytestmark = pytest.mark.slow


def make_classifier(command: list[str], options: list[str]) -> Classifier:
    cfg = load_config(command[1], command[2:])
    cfg.merge_from_list(options)
    model = randomize(build_model(cfg), std=0.1)
    return Classifier(cfg, model, ("catch", "walk", "wave"), torch.device("cpu"), "best.pyth", [])


def expected_logits(classifier: Classifier, clips: np.ndarray) -> np.ndarray:
    """By the model in float64, with the normalization of the documentation."""
    data = classifier.cfg.DATA
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1, 1) for values in (data.MEAN, data.STD))
    with torch.no_grad():
        return classifier.model.double()((torch.from_numpy(clips).double() / 255 - mean) / std).float().numpy()


def compute(path: Path, clips: np.ndarray) -> np.ndarray:
    if path.suffix == ".onnx":
        onnx.checker.check_model(path, full_check=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(["logits"], {"clips": clips})[0]
    if path.suffix == ".xml":
        compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return compiled({"clips": clips})["logits"]
    with torch.no_grad():
        return torch.export.load(path).module()(torch.from_numpy(clips)).numpy()


@pytest.mark.parametrize("name", MODELS)
def test_every_format_gives_the_logits_of_the_model(name: str, tiny_command: list[str], tmp_path: Path):
    classifier = make_classifier(tiny_command, MODELS[name])
    side = classifier.cfg.DATA.TEST_CROP_SIZE
    clips = np.random.default_rng(0).integers(0, 256, (3, 3, 2, side, side), dtype=np.uint8)
    for suffix in FORMATS.values():
        export(classifier, tmp_path / f"m{suffix}", ExportOptions(dynamic_batch=True))
    expected = expected_logits(classifier, clips)
    for suffix in FORMATS.values():
        path = tmp_path / f"m{suffix}"
        found = compute(path, clips)
        assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max()), suffix
        loaded = load_model(path)
        assert np.allclose(loaded.compute(torch.from_numpy(clips))[0], found, atol=1e-6)
        assert loaded.class_names == classifier.class_names


def test_half_stores_weights_in_float16(tiny_command: list[str], tmp_path: Path):
    classifier = make_classifier(tiny_command, ["TIMESFORMER.EMBED_DIM", "64"])
    clips = np.random.default_rng(0).integers(0, 256, (1, 3, 2, 16, 16), dtype=np.uint8)
    num_weights = classifier.model.model.blocks[0].mlp.fc1.weight.numel()
    sizes = {}
    for half in (False, True):
        for suffix in FORMATS.values():
            export(classifier, path := tmp_path / f"{half}{suffix}", ExportOptions(half=half))
            sizes[half, suffix] = (path.with_suffix(".bin") if suffix == ".xml" else path).stat().st_size
    expected = expected_logits(classifier, clips)
    for suffix in FORMATS.values():
        assert sizes[True, suffix] < sizes[False, suffix] - 2 * num_weights
        found = compute(tmp_path / f"True{suffix}", clips)
        assert 0 < np.abs(found - expected).max() < 100 * 2**-11 * np.abs(expected).max()
