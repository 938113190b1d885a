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
from timesformer.progress import Progress
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
    """NNCF: quantizes weights and activations once, with ranges from the calibration clips.

    `names` are those of the layers by the names of the program's operations, see `program.layer_names`. Raises
    UserError if a library is missing.
    """

    method = "NNCF static"

    def __init__(self, model: "openvino.Model", path: Path, names: dict[str, str], clips: ClipSet) -> None:
        with quiet():
            nncf = import_library("nncf", "--int8", "openvino")
        products = [op.get_friendly_name() for op in model.get_ops() if op.get_type_name() == "MatMul"]
        known = [(names[name.partition("/")[0]], name) for name in products if name.partition("/")[0] in names]
        self._products = {f"{layer}#{number}": name for number, (layer, name) in enumerate(known)}
        self.layers = list(self._products)
        self._path, self._float = path, model
        with Progress("quantizing with NNCF", None, "clip") as progress, quiet():
            self._quantized = nncf.quantize(
                model,
                nncf.Dataset(_CountedBatches(clips, progress)),
                subset_size=len(clips),
                model_type=nncf.ModelType.TRANSFORMER,
            )

    def quantize(self, float_layers: Collection[str]) -> Quantized:
        model = self._quantized.clone()
        _return_to_float(model, self._float, {self._products[layer] for layer in float_layers})
        _, compute = open_openvino(model, "--int8")
        return Quantized(compute, lambda metadata: save_openvino(model, self._path, metadata))


def _return_to_float(model: "openvino.Model", original: "openvino.Model", products: Collection[str]) -> None:
    """Gives the named products of a quantized model, and the sums with their biases, the inputs of the original.

    NNCF scales the inputs and weights of a product, and corrects its bias.
    """
    opset = import_library("openvino.opset13", "--int8", "openvino")
    ours = {op.get_friendly_name(): op for op in model.get_ops()}
    for op in original.get_ops():
        if op.get_friendly_name() not in products:
            continue
        sums = [target.get_node() for target in op.output(0).get_target_inputs()]
        for changed in (op, *(node for node in sums if node.get_type_name() == "Add")):
            for index, source in enumerate(changed.input_values()):
                node, target = source.get_node(), ours[changed.get_friendly_name()].input(index)
                if node.get_type_name() == "Constant":
                    target.replace_source_output(opset.constant(node.get_data()).output(0))
                elif node is not op:
                    target.replace_source_output(ours[node.get_friendly_name()].output(source.get_index()))


class _Reader:
    """The calibration clips, as ONNX Runtime reads them."""

    def __init__(self, clips: ClipSet) -> None:
        self._batches = _batches(clips)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


class _CountedBatches:
    """The calibration clips, as NNCF reads them, several times; every clip advances the progress."""

    def __init__(self, clips: ClipSet, progress: Progress) -> None:
        self._clips, self._progress = clips, progress

    def __len__(self) -> int:
        return len(self._clips)

    def __iter__(self) -> Iterator[np.ndarray]:
        for batch in _batches(self._clips):
            yield batch
            self._progress.advance()


def _batches(clips: ClipSet) -> Iterator[np.ndarray]:
    return (clip[None].numpy() for clip in clips.clips)
