"""int8: the choice of the layers that stay in float, and the files of ONNX Runtime and NNCF."""

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch

from tests.conftest import load_command
from timesformer.export.clips import ClipSet
from timesformer.export.int8 import ERROR, Quantized, choose_layers, layer_kind
from timesformer.inference.classifier import load_model

KINDS = {"patch_embed.proj": 0.02, "blocks.*.attn.qkv": 0.5, "blocks.*.mlp.fc2": 0.2, "head": 0.01}


class AddsErrors:
    """A quantizer in which each layer that is not in float adds a fixed error to the logits."""

    method = "adds errors"
    layers = (
        "patch_embed.proj#1",
        *(f"blocks.{n}.{name}#2" for n in (0, 1) for name in ("attn.qkv", "mlp.fc2")),
        "head#3",
    )

    def __init__(self, logits: np.ndarray, scale: float = 1) -> None:
        self.logits, self.scale = logits, scale

    def quantize(self, float_layers: Collection[str]) -> Quantized:
        kinds = {layer_kind(layer) for layer in self.layers if layer not in float_layers}
        change = self.scale * sum(KINDS[kind] for kind in kinds) * np.float32([1, -1])
        return Quantized(lambda clips: self.logits[clips.reshape(len(clips), -1)[:, 0]] + change, lambda metadata: None)


@pytest.fixture
def clips() -> ClipSet:
    """A clip for each logit; its number is its first pixel."""
    numbers = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1, 1).expand(8, 3, 1, 2, 2)
    return ClipSet(numbers, None, "generated")


LOGITS = np.float32([[3, -3], [-3, 3]] * 4)


def test_layers_stay_in_float_in_the_order_of_their_error_until_the_logits_are_close(clips: ClipSet):
    _, choice = choose_layers([AddsErrors(LOGITS)], LOGITS, clips)
    # 0.73 / 3 without, 0.23 / 3 with one kind: relative to the norm of centered logits
    assert choice.chosen.float_kinds == ("blocks.*.attn.qkv",)
    assert choice.chosen.error == pytest.approx(0.23 / 3, rel=1e-5)
    assert len(choice.trials) == 1 + len(KINDS) + 1
    _, choice = choose_layers([AddsErrors(LOGITS, scale=0.1)], LOGITS, clips)
    assert choice.chosen.float_kinds == ()
    assert len(choice.trials) == 1


def test_the_next_method_is_tried_and_the_smallest_error_is_taken_if_none_is_close(clips: ClipSet):
    worse, better = AddsErrors(LOGITS, scale=100), AddsErrors(LOGITS, scale=50)
    better.method = "other"
    quantized, choice = choose_layers([worse, better], LOGITS, clips)
    assert choice.chosen.method == "other"
    assert not choice.chosen.is_close
    assert choice.chosen.error == min(trial.error for trial in choice.trials)
    assert np.isfinite(quantized.compute(clips.clips.numpy())).all()
    _, choice = choose_layers([worse, AddsErrors(LOGITS, scale=0)], LOGITS, clips)
    assert choice.chosen.error == 0


@pytest.mark.slow
@pytest.mark.parametrize(("to", "file"), [("onnx", "m.onnx"), ("openvino", "m.xml")])
def test_int8_files_have_8_bit_weights_and_are_checked(
    to: str, file: str, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
):
    options = ["--to", to, "--output", str(tmp_path / file), "--rounds", "1"]
    command = ["--checkpoint", str(tiny_checkpoint), *options, "--int8", "--calibrate", str(tiny_data / "val")]
    assert load_command("export").main([*command, "--clips", str(tiny_data / "test")]) == 0
    if to == "onnx":
        types = Counter(tensor.data_type for tensor in onnx.load(tmp_path / file).graph.initializer)
        assert types[onnx.TensorProto.INT8] >= 5  # qkv, projections, MLP
    else:
        operations = openvino.Core().read_model(tmp_path / file).get_ops()
        types = Counter(str(op.get_element_type()) for op in operations if op.get_type_name() == "Constant")
        assert any("8" in name for name in types)
    check = json.loads((tmp_path / "export.json").read_text())[file]
    chosen, errors = check["int8"]["chosen"], [trial["error"] for trial in check["int8"]["trials"]]
    assert chosen["error"] <= ERROR or chosen["error"] == min(errors)
    assert load_model(tmp_path / file).model.metadata["precision"] == "int8"
