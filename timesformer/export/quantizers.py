"""Quantizers: ONNX Runtime with dynamic or static ranges of the activations, and NNCF for OpenVINO."""

from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from timesformer.export.clips import ClipSet
from timesformer.export.files import save_onnx, save_openvino
from timesformer.export.int8 import Quantized
from timesformer.export.processor import has_int8_products
from timesformer.export.program import INPUT
from timesformer.models.weights.exported import import_library, open_onnx, open_openvino
from timesformer.quiet import quiet

if TYPE_CHECKING:
    import onnx
    import openvino


class OnnxQuantizer:
    """ONNX Runtime: "dynamic" measures the ranges of activations for every clip, "static" on the calibration clips.

    Raises UserError if a library is missing.
    """

    def __init__(
        self, model: "onnx.ModelProto", path: Path, kind: Literal["dynamic", "static"], clips: ClipSet
    ) -> None:
        self.method = f"ONNX Runtime {kind}"
        self._model, self._path, self._kind, self._clips = model, path, kind, clips
        self._quantization = import_library("onnxruntime.quantization", "--int8", "onnx")
        operators = ("MatMul", "Gemm") if kind == "dynamic" else ("MatMul", "Gemm", "Conv")
        weights = {tensor.name for tensor in model.graph.initializer}
        self._operators = list(operators)
        self.layers = [node.name for node in model.graph.node if node.op_type in operators and node.input[1] in weights]

    def quantize(self, float_layers: Collection[str]) -> Quantized:
        library, onnx = self._quantization, import_library("onnx", "--int8", "onnx")
        options: dict[str, Any] = {
            "op_types_to_quantize": self._operators,
            "nodes_to_exclude": list(float_layers),
            "per_channel": True,
            # Without these instructions, sums of two products of 8 bits overflow.
            "reduce_range": not has_int8_products(),
            "weight_type": library.QuantType.QInt8,
            "extra_options": {"MatMulConstBOnly": True},
        }
        with TemporaryDirectory() as folder, quiet():
            source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
            onnx.save(self._model, source)
            if self._kind == "dynamic":
                library.quantize_dynamic(source, target, **options)
            else:
                options["activation_type"] = library.QuantType.QUInt8  # faster with int8 weights on x86
                library.quantize_static(source, target, _Reader(self._clips), **options)
            model = onnx.load(target)
        _, compute = open_onnx(model.SerializeToString(), "--int8")
        return Quantized(compute, lambda metadata: save_onnx(model, self._path, metadata))


class OpenVinoQuantizer:
    """NNCF: quantizes weights and activations, with ranges from the calibration clips.

    `names` are those of the layers by the names of the program's operations, see `program.layer_names`. Raises
    UserError if a library is missing.
    """

    method = "NNCF static"

    def __init__(self, model: "openvino.Model", path: Path, names: dict[str, str], clips: ClipSet) -> None:
        with quiet():
            self._nncf = import_library("nncf", "--int8", "openvino")
        self._model, self._path, self._clips = model, path, clips
        operations = [op.get_friendly_name() for op in model.get_ops() if op.get_type_name() == "MatMul"]
        layers = {name: names[name.partition("/")[0]] for name in operations if name.partition("/")[0] in names}
        self._operations = {f"{layer}#{number}": name for number, (name, layer) in enumerate(layers.items())}
        self.layers = list(self._operations)

    def quantize(self, float_layers: Collection[str]) -> Quantized:
        nncf = self._nncf
        ignored = [self._operations[layer] for layer in float_layers]
        with quiet():
            model = nncf.quantize(
                self._model,
                nncf.Dataset(list(_batches(self._clips))),
                subset_size=len(self._clips),
                model_type=nncf.ModelType.TRANSFORMER,
                ignored_scope=nncf.IgnoredScope(names=ignored) if ignored else None,
            )
        _, compute = open_openvino(model, "--int8")
        return Quantized(compute, lambda metadata: save_openvino(model, self._path, metadata))


class _Reader:
    """The calibration clips, as ONNX Runtime reads them."""

    def __init__(self, clips: ClipSet) -> None:
        self._batches = _batches(clips)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _batches(clips: ClipSet) -> Iterator[np.ndarray]:
    return (clip[None].numpy() for clip in clips.clips)
