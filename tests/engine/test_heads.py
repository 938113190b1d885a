"""Heads over tokens from the command line: training, testing, predicting, and what other programs cannot read."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.conftest import Outcome
from timesformer.errors import UserError
from timesformer.inference.classifier import load_model
from timesformer.visualization.attention import attention_of

pytestmark = pytest.mark.slow

RUNS = {
    "attentive": "MODEL.HEAD attentive MODEL.HEAD_GRID 2 MODEL.ACT_CHECKPOINT blocks SOLVER.LAYER_DECAY 0.5",
    "temporal": "MODEL.HEAD temporal MODEL.HEAD_WIDTH 16 MODEL.HEAD_DEPTH 2 SOLVER.ZERO_WD_1D_PARAM True",
    "ViViT": "MODEL.HEAD temporal MODEL.MODEL_NAME ViViT VIVIT.MODEL 2 VIVIT.TUBELET_SIZE [1,8,8] "
    "TIMESFORMER.PATCH_SIZE 16",
    "timm": "MODEL.HEAD attentive MODEL.MODEL_NAME timm/test_vit SOLVER.LAYER_DECAY 0.5",
}


@pytest.mark.parametrize("name", RUNS)
def test_runs(
    name: str,
    run_net: Callable[..., Outcome],
    tiny_command: list[str],
    tiny_data: Path,
    converter: ModuleType,
    tmp_path: Path,
) -> None:
    options, out = RUNS[name].split(), tmp_path / "out"
    embeddings = ["TEST.REPORT", "True", "TENSORBOARD.EMBEDDINGS", "2", "LOG_MODEL_INFO", "True"]
    command = [*tiny_command, *options]
    done = run_net(*command, *embeddings, "OUTPUT_DIR", str(out))
    assert done.code == 0, done.err
    best = out / "checkpoints/best.pyth"
    state = torch.load(best, weights_only=True)["model_state"]
    assert "model.head.classifier.weight" in state

    tested = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(best), "OUTPUT_DIR", str(tmp_path / "again")]
    assert run_net(*command, *tested).code == 0
    assert (tmp_path / "again/predictions.csv").read_text() == (out / "predictions.csv").read_text()

    classifier = load_model(out, "cpu", ["TEST.CALIBRATE", "False"])
    video = next((tiny_data / "test" / "walk").iterdir())
    prediction = classifier.predict(video, features=True)
    results = json.loads((out / "results.json").read_text())
    assert results["num_videos"] == 6
    layer = classifier.model.model.head.classifier
    with torch.no_grad():
        expected = layer(torch.from_numpy(prediction.embedding)).softmax(dim=0)
    assert torch.allclose(torch.from_numpy(prediction.probabilities), expected, atol=1e-6)
    if name != "timm":
        assert attention_of(classifier, video)[1].shape == (2, 2, 2)
    with pytest.raises(UserError, match=r"MODEL\.HEAD"):
        converter.convert(str(best), tmp_path / "hf", "hf")
    converter.convert(str(best), tmp_path / "copy.safetensors", "safetensors")
    again = load_model(tmp_path / "copy.safetensors", "cpu", ["TEST.CALIBRATE", "False"]).predict(video)
    assert (again.probabilities == prediction.probabilities).all()

    tuned = ["TRAIN.FINETUNE", "True", "MODEL.FREEZE", "backbone", "TRAIN.CHECKPOINT_FILE_PATH", str(best)]
    assert run_net(*command, *tuned, "OUTPUT_DIR", str(tmp_path / "tuned")).code == 0
    after = torch.load(tmp_path / "tuned/checkpoints/best.pyth", weights_only=True)["model_state"]
    changed = {key for key in state if not torch.equal(state[key], after[key])}
    assert changed
    assert all(key.startswith("model.head.") for key in changed)
