"""GPU memory of a training step, computed on the CPU: weights, gradients, optimizer state and saved activations."""

from collections.abc import Iterator, Sequence

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from timesformer.benchmarks.tables import header, row
from timesformer.config import load_config
from timesformer.models import build_model
from timesformer.models.parts import freeze

_OPTIMIZER_STATES = {"sgd": 1, "adam": 2, "adamw": 2}  # float32 values for each trained parameter


def gpu_memory_table(names: Sequence[str], batch_sizes: Sequence[int], precisions: Sequence[str]) -> Iterator[str]:
    """Table with rows for configurations and precisions, and a column for each batch size."""
    caption = (
        "Computed, not measured, in GB: weights, gradients, optimizer state, and tensors saved for the backward pass. "
        "Temporary buffers, fragmentation and the CUDA context (together often 1 to 2 GB) are not included."
    )
    columns = ["weights and optimizer", *(f"batch size {size}" for size in batch_sizes)]
    yield from header(caption, ["configuration", "precision", *columns], text_columns=2)
    for name in names:
        cfg = load_config(name, check_values=False)
        with torch.device("meta"):
            model = build_model(cfg, fresh=True)
        freeze(model, cfg.MODEL.FREEZE, cfg.MODEL.UNFROZEN)
        state = state_bytes(model, cfg.SOLVER.OPTIMIZING_METHOD)
        for precision in precisions:
            one, two = (activation_bytes(model, cfg, precision, clips) for clips in (1, 2))
            # Copies of the weights in bf16 do not depend on the number of clips.
            totals = (state + one + (two - one) * (clips - 1) for clips in batch_sizes)
            yield row([name, precision, *(f"{size / 1e9:.1f}" for size in (state, *totals))])


def state_bytes(model: nn.Module, optimizer: str) -> int:
    """Bytes of float32 weights, and of gradients and optimizer state of the trained ones."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(4 * size * (1 + is_trained * (1 + _OPTIMIZER_STATES[optimizer])) for size, is_trained in sizes)


def activation_bytes(model: nn.Module, cfg: CfgNode, precision: str, clips: int) -> int:
    """Bytes of the tensors that the forward pass of clips saves for the backward pass, without the weights.

    `model` may be on the meta device. Its operations run on tensors without data, with the precisions and the fused
    attention of the CPU.
    """
    crop, saved = cfg.DATA.TRAIN_CROP_SIZE, {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        named = [*model.named_parameters(), *model.named_buffers()]
        tensors = {name: torch.empty(old.shape, dtype=old.dtype) for name, old in named}
        for name, parameter in model.named_parameters():
            tensors[name].requires_grad_(parameter.requires_grad)
        weights = {id_of(tensor) for tensor in tensors.values()}

        def save(tensor: Tensor) -> Tensor:
            if id_of(tensor) not in weights:
                saved[id_of(tensor)] = tensor.untyped_storage()  # held, so that no other gets its address
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor)
        clip = torch.empty(clips, 3, cfg.DATA.NUM_FRAMES, crop, crop)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            torch.func.functional_call(model.train(), tensors, (clip,))
    return sum(storage.nbytes() for storage in saved.values())


def id_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
