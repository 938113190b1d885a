"""The computed memory of a training step is that of real tensors."""

import pytest
import torch

from timesformer.benchmarks.gpu_memory import activation_bytes, state_bytes
from timesformer.config import load_config
from timesformer.models import build_model


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_and_state_are_those_of_a_real_step(precision: str) -> None:
    cfg = load_config("Demo/TimeSformer_divST_8x2_48", check_values=False)
    model = build_model(cfg, fresh=True).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in (*model.parameters(), *model.buffers())}
    held: dict[int, torch.Tensor] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        if (address := tensor.untyped_storage().data_ptr()) not in weights:
            held[address] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = model(torch.randn(2, 3, 8, 48, 48)).sum()
    saved = sum(tensor.untyped_storage().nbytes() for tensor in held.values())
    assert activation_bytes(model, cfg, precision, 2) == saved
    loss.backward()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    tensors = [tensor for state in optimizer.state.values() for tensor in state.values() if tensor.dim()]
    tensors += [tensor for parameter in model.parameters() for tensor in (parameter, parameter.grad)]
    assert state_bytes(model, "adamw") == sum(tensor.nbytes for tensor in tensors)
