"""ONNX graphs: made from a program of torch.export, simplified, and with weights in float16."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from timesformer.export.program import INPUT, OUTPUT, conversion_errors
from timesformer.models.weights.exported import import_library
from timesformer.quiet import quiet

if TYPE_CHECKING:
    import onnx
    import onnx_ir

OPSET = 20
NEEDED_BY = "--to onnx"
_DISABLED = ["MatMulAddFusion"]
"""A product of tokens with a bias would become a Gemm of matrices, with a Reshape before and after it."""


def to_onnx(program: torch.export.ExportedProgram) -> "onnx.ModelProto":
    """The ONNX model, in which everything that depends on the weights alone is computed.

    Raises UserError if a library is missing.
    """
    optimizer = import_library("onnxscript.optimizer", NEEDED_BY, "onnx")
    with quiet(), conversion_errors("its conversion to ONNX"):
        made = torch.onnx.export(
            program, dynamo=True, optimize=False, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT]
        )
        _name_layers(made.model.graph)
        # The whole optimizer of onnxscript would take longer than all other steps together.
        optimizer.fold_constants(made.model, onnx_shape_inference=False)
    with TemporaryDirectory() as folder, quiet():
        path = Path(folder, "model.onnx")
        made.save(path, external_data=False)
        return simplify(path)


def simplify(path: Path) -> "onnx.ModelProto":
    """Reads an ONNX model and applies the optimizations of ONNX Runtime that give standard operators."""
    runtime = import_library("onnxruntime", NEEDED_BY, "onnx")
    onnx = import_library("onnx", NEEDED_BY, "onnx")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path.with_suffix(".simple.onnx"))
    options.log_severity_level = 3
    runtime.InferenceSession(path, options, ["CPUExecutionProvider"], disabled_optimizers=_DISABLED)
    model = onnx.load(options.optimized_model_filepath)
    _merge_equal_weights(model)
    _remove_unused(model)
    return model


def store_in_half(model: "onnx.ModelProto") -> None:
    """Stores matrices of float32 weights as float16, in place; runtimes convert them back when they load the model."""
    onnx = import_library("onnx", NEEDED_BY, "onnx")
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype("float16"), f"{name}.float16"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _name_layers(graph: "onnx_ir.Graph") -> None:
    """Names the products with weights after their layers, such as network.model.blocks.0.mlp.fc1#12."""
    for number, node in enumerate(graph):
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        value = node.inputs[1]
        while value is not None and value.producer() is not None:  # the weight may be transposed, split, ...
            value = next(iter(value.producer().inputs), None)
        if value is not None and value.name in graph.initializers:
            node.name = f"{value.name.removesuffix('.weight')}#{number}"


def _merge_equal_weights(model: "onnx.ModelProto") -> None:
    """Weights that are used twice are stored once: each of their uses had a transposed copy."""
    first: dict[tuple[object, ...], str] = {}
    names = {
        tensor.name: first.setdefault((tensor.data_type, *tensor.dims, tensor.raw_data), tensor.name)
        for tensor in model.graph.initializer
        if tensor.raw_data
    }
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)


def _remove_unused(model: "onnx.ModelProto") -> None:
    """Removes nodes and weights without effect, shapes of intermediate results, and operator sets without nodes."""
    used, nodes = {output.name for output in model.graph.output}, []
    for node in reversed(model.graph.node):
        if used.intersection(node.output):
            used.update(node.input)
            nodes.append(node)
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    operator_sets = [entry for entry in model.opset_import if entry.domain in {node.domain for node in nodes}]
    for field, kept in (
        (model.graph.node, nodes[::-1]),
        (model.graph.initializer, weights),
        (model.graph.value_info, []),
        (model.opset_import, operator_sets),
        (model.metadata_props, []),
    ):
        kept = list(kept)
        del field[:]
        field.extend(kept)
