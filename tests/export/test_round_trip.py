"""Exported files give the logits of the model, computed by ONNX Runtime, OpenVINO and torch.export themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from transformers import AutoModelForVideoClassification, TimesformerConfig

from tests.models.small import randomize
from timesformer.config import load_config
from timesformer.export.exporting import ExportOptions, export
from timesformer.export.files import save_onnx, save_openvino, save_torch, to_openvino
from timesformer.export.metadata import make_metadata
from timesformer.export.onnx_graph import to_onnx
from timesformer.export.program import exportable, make_program
from timesformer.inference.classifier import Classifier, load_model
from timesformer.models import build_model
from timesformer.models.blocks import LIGHT_VARIANTS
from timesformer.models.complexity import count_parameters
from timesformer.models.lora import add_low_rank_updates
from timesformer.models.weights.exported import FORMATS

ALL = tuple(FORMATS)
TUBELETS = {"MODEL.MODEL_NAME": "ViViT", "VIVIT.TUBELET_SIZE": [1, 8, 8]}
TRANSFORMERS_SIZE = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 1}
SIZE_32 = {"DATA.TRAIN_CROP_SIZE": 32, "DATA.TEST_CROP_SIZE": 32}
OTHER_SIZE = {"DATA.TEST_CROP_SIZE": 24}
MODELS = {  # a head and another size of test clips share the conversion, which takes seconds, with types of attention
    "divided, attentive head, other test size": ({"MODEL.HEAD": "attentive", **OTHER_SIZE}, ALL),
    "joint, temporal head": ({"TIMESFORMER.ATTENTION_TYPE": "joint_space_time", "MODEL.HEAD": "temporal"}, ALL),
    "space only": ({"TIMESFORMER.ATTENTION_TYPE": "space_only"}, ALL),
    "LightTimeSformer": ({"MODEL.MODEL_NAME": "LightTimeSformer", "TIMESFORMER.VARIANT": "tiny"}, ALL),
    "ViViT 1": ({**TUBELETS, "VIVIT.MODEL": 1}, ALL),
    "ViViT 2": ({**TUBELETS, "VIVIT.MODEL": 2}, ALL),
    "ViViT 3": ({**TUBELETS, "VIVIT.MODEL": 3}, ALL),
    "VideoMAE": ({"MODEL.MODEL_NAME": "VideoMAE", "VIVIT.TUBELET_SIZE": [2, 8, 8]}, ALL),
    "low-rank updates": ({"MODEL.LORA_RANK": 2, "MODEL.LORA_LAYERS": "all"}, ALL),
    "torchvision": ({"MODEL.MODEL_NAME": "torchvision/r3d_18"}, ("onnx",)),
    "timm": ({"MODEL.MODEL_NAME": "timm/test_convnext", **SIZE_32}, ("onnx",)),
    "transformers": ({"MODEL.MODEL_NAME": "transformers/{folder}", "MODEL.PRETRAINED": True}, ("onnx",)),
}

pytestmark = pytest.mark.slow


def make_classifier(command: list[str], options: dict[str, object]) -> Classifier:
    cfg = load_config(command[1], command[2:])
    cfg.merge_from_list([str(part) for option in options.items() for part in option])
    model = build_model(cfg).eval()
    if "/" not in cfg.MODEL.MODEL_NAME:  # else the library's random weights
        randomize(model, std=0.3)
    return Classifier(cfg, model, ("catch", "walk", "wave"), torch.device("cpu"), "best.pyth", [])


def with_low_rank_updates(classifier: Classifier, folder: Path) -> Classifier:
    """Adds updates to the model of a classifier, and returns that of its checkpoint."""
    add_low_rank_updates(classifier.model, 2, 8.0, "all")
    randomize(classifier.model, seed=1, std=0.3)
    content = {"model_state": classifier.model.state_dict(), "cfg": classifier.cfg.dump()}
    torch.save({**content, "progress": {"class_names": classifier.class_names}}, path := folder / "lora.pyth")
    return load_model(path, "cpu")


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


def write(program: torch.export.ExportedProgram, path: Path, metadata: dict[str, Any]) -> None:
    if path.suffix == ".onnx":
        save_onnx(to_onnx(program), path, metadata)
    elif path.suffix == ".xml":
        save_openvino(to_openvino(program), path, metadata)
    else:
        save_torch(program, path, metadata)


@pytest.mark.parametrize("name", MODELS)
def test_every_format_gives_the_logits_of_the_model(
    name: str, tiny_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(LIGHT_VARIANTS, "tiny", {**LIGHT_VARIANTS["tiny"], "depth": 2})  # of 9 blocks
    options, formats = MODELS[name]
    if name == "transformers":
        config = TimesformerConfig(image_size=16, patch_size=8, num_frames=2, num_labels=3, **TRANSFORMERS_SIZE)
        AutoModelForVideoClassification.from_config(config).save_pretrained(tmp_path)
    classifier = make_classifier(
        tiny_command, {key: str(value).format(folder=tmp_path) for key, value in options.items()}
    )
    exported = with_low_rank_updates(classifier, tmp_path) if name == "low-rank updates" else classifier
    dynamic = name != "transformers"  # its TimeSformer is exported for one clip only
    metadata = make_metadata(exported, "float32", dynamic_batch=dynamic, license_name="")
    clips = np.random.default_rng(0).integers(0, 256, (3, *metadata["input"]["shape"][1:]), dtype=np.uint8)
    program = make_program(exportable(exported), clips.shape[1:], dynamic_batch=dynamic)
    expected = expected_logits(classifier, clips)
    assert np.abs(expected - expected[0]).max() > 1e-3  # the clips have an effect
    for kind in formats:
        write(program, path := tmp_path / f"m{FORMATS[kind]}", metadata)
        found = [compute(path, batch) for batch in ([clips] if dynamic else np.split(clips, len(clips)))]
        assert np.abs(np.concatenate(found) - expected).max() < 1e-4 * max(1, np.abs(expected).max()), kind


def test_half_stores_weights_in_float16(tiny_command: list[str], tmp_path: Path):
    classifier = make_classifier(tiny_command, {"TIMESFORMER.EMBED_DIM": 192})
    clips = np.random.default_rng(0).integers(0, 256, (1, 3, 2, 16, 16), dtype=np.uint8)
    expected, num_weights = expected_logits(classifier, clips), count_parameters(classifier.model)
    classifier.model.float()
    for suffix in FORMATS.values():
        export(classifier, path := tmp_path / f"m{suffix}", ExportOptions(half=True))
        size = (path.with_suffix(".bin") if suffix == ".xml" else path).stat().st_size
        assert size < 3 * num_weights, suffix  # with the graph; 4 bytes each in float32
        assert 0 < np.abs(compute(path, clips) - expected).max() < 100 * 2**-11 * np.abs(expected).max(), suffix
