"""The graph of a model that takes uint8 clips: normalization and network as a program of torch.export."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.func import functional_call

from timesformer.datasets.transforms.spatial import tensor_normalize
from timesformer.errors import UserError
from timesformer.inference.classifier import Classifier
from timesformer.models.blocks import Block
from timesformer.models.build import RegisteredTransformer, build_model
from timesformer.models.weights.formats import CheckpointMetadata
from timesformer.models.weights.loading import Checkpoint, load_pretrained
from timesformer.quiet import quiet

INPUT, OUTPUT = "clips", "logits"
"""Names of the input, uint8 [batch, 3, frames, height, width], and the output, float32 [batch, classes]."""


class ClipsToLogits(nn.Module):
    """A network with the normalization of its clips."""

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, clips: Tensor) -> Tensor:
        return self.network(tensor_normalize(clips, self.mean, self.std)).float()


class HalfWeights(nn.Module):
    """A module whose weights are stored in float16, and computed with in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.half()

    def forward(self, clips: Tensor) -> Tensor:
        weights = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        return functional_call(self.module, {name: _to_float32(value) for name, value in weights.items()}, clips)


def _to_float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def exportable(classifier: Classifier) -> ClipsToLogits:
    """A copy of the model on the CPU without gradients, in which linear layers that follow each other are one.

    Position embeddings of another size than those of the tested clips are resized.
    """
    network = copy.deepcopy(classifier.model).cpu()
    data = classifier.cfg.DATA
    if isinstance(network, RegisteredTransformer) and data.TRAIN_CROP_SIZE != data.TEST_CROP_SIZE:
        network = _with_resized_embeddings(network, classifier.cfg)
    network.float().eval().requires_grad_(False)
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d) and layer.bias is None:  # the converter to ONNX adds one of invalid shape
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels), requires_grad=False)
    for block in network.modules():
        if isinstance(block, Block) and hasattr(block, "temporal_fc"):
            _merge_temporal_projection(block)
    return ClipsToLogits(network, classifier.cfg.DATA.MEAN, classifier.cfg.DATA.STD)


def make_program(model: ClipsToLogits, shape: tuple[int, ...], dynamic_batch: bool) -> torch.export.ExportedProgram:
    """The program for clips of `shape`, [3, frames, height, width]: one, or with `dynamic_batch` any number of them.

    Raises UserError if the network has operations that torch.export cannot follow, which is possible for networks of
    other libraries.
    """
    clips = torch.zeros(2 if dynamic_batch else 1, *shape, dtype=torch.uint8)
    sizes = ({0: torch.export.Dim("batch", min=1, max=2**16)},) if dynamic_batch else None
    # With gradients enabled, blocks do not merge weights in the forward pass: `exportable` has done it.
    with conversion_errors("torch.export"), torch.enable_grad(), quiet():
        return torch.export.export(model, (clips,), dynamic_shapes=sizes)


@contextmanager
def conversion_errors(step: str) -> Iterator[None]:
    """Turns an exception of a library that cannot convert a model into a UserError."""
    try:
        yield
    except Exception as error:  # of many types
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"the model cannot be exported: {step} fails ({reason}); try another format, --dynamic-batch on or off, or "
            "another model"
        ) from error


def layer_names(program: torch.export.ExportedProgram) -> dict[str, str]:
    """The names of the linear layers by those of the program's operations, such as linear_3: blocks.0.mlp.fc1."""
    parameters = program.graph_signature.inputs_to_parameters
    names = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target is torch.ops.aten.linear.default:
            weight = node.args[1]
            while weight.op == "call_function":  # a part of it, or another shape
                weight = weight.args[0]
            if weight.name in parameters:
                names[node.name] = parameters[weight.name].removesuffix(".weight")
    return names


def _with_resized_embeddings(network: RegisteredTransformer, cfg: CfgNode) -> nn.Module:
    """The same network, built for clips of DATA.TEST_CROP_SIZE."""
    trained, cfg = cfg.DATA.TRAIN_CROP_SIZE, cfg.clone()
    cfg.DATA.TRAIN_CROP_SIZE = cfg.DATA.TEST_CROP_SIZE
    resized = build_model(cfg, fresh=True)
    metadata = CheckpointMetadata(image_size=(trained, trained))
    state = Checkpoint(network.model.state_dict(), {}, "", metadata, cfg.MODEL.MODEL_NAME)
    load_pretrained(resized, state, cfg.TIMESFORMER.POS_EMBED_INTERPOLATION)
    return resized


def _merge_temporal_projection(block: Block) -> None:
    """Replaces the output projection of temporal attention and the layer after it with their product."""
    projection, layer = block.temporal_attn.proj, block.temporal_fc
    if type(projection) is not nn.Linear or type(layer) is not nn.Linear:  # with low-rank updates
        return
    weight, bias = layer.weight.double(), layer.bias.double()
    merged = nn.Linear(projection.in_features, layer.out_features)
    merged.weight.data = (weight @ projection.weight.double()).float()
    merged.bias.data = (weight @ projection.bias.double() + bias).float()
    block.temporal_attn.proj, block.temporal_fc = merged.requires_grad_(False), nn.Identity()
