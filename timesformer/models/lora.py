"""Low-rank updates of frozen linear layers (LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from timesformer.errors import UserError
from timesformer.models.parts import freeze

LoraLayers = Literal["query_value", "all"]
_QUERY_AND_VALUE = ("query", "value", "q_proj", "v_proj", "q", "v")
"""Names of separate layers in other libraries. A layer `qkv` computes queries, keys and values, in this order."""


class LowRankUpdate(nn.Module):
    """Adds `alpha / rank * up @ down` to a weight [outputs, inputs], of which it is a parametrization.

    The rows of the weight are in `num_parts` equal parts (3 for `qkv`). Each of the `updated` parts has its own `down`
    [rank, inputs], with the uniform initial values of the authors' code, and `up` [rows, rank], initially zero.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, num_parts: int, updated: Sequence[int]) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.scale, self.num_parts, self.updated = alpha / rank, num_parts, tuple(updated)
        bound = inputs**-0.5
        self.down = nn.Parameter(weight.new_empty(len(updated), rank, inputs).uniform_(-bound, bound))
        self.up = nn.Parameter(weight.new_zeros(len(updated), outputs // num_parts, rank))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):  # saved weights are merged in float32, too
            updates = self.scale * (self.up @ self.down)  # [updated parts, rows, inputs]
        parts = list(weight.chunk(self.num_parts))
        for part, update in zip(self.updated, updates.unbind(), strict=True):
            parts[part] = parts[part] + update
        return torch.cat(parts)


def add_low_rank_updates(
    model: nn.Module, rank: int, alpha: float, layers: LoraLayers, unfrozen: Sequence[str] = ()
) -> None:
    """Freezes a model but for its head and the parameters that `unfrozen` names (see `freeze`), and adds updates.

    They are for the query and the value of every attention layer, or for `all` linear layers that are frozen. The model
    then computes the same as before, and its state dict has the same names, with the updates added to the weights.
    Loading a state dict resets the updates to zero. Raises UserError if the model has no such layers or `rank` is
    larger than one of their sides.
    """
    freeze(model, "backbone", unfrozen)
    adapted = 0
    for name, layer in [*model.named_modules()]:
        if not isinstance(layer, nn.Linear) or layer.weight.requires_grad:
            continue
        kind = name.rpartition(".")[2]
        is_fused = kind == "qkv" and layer.out_features % 3 == 0
        if layers == "query_value" and not is_fused and kind not in _QUERY_AND_VALUE:
            continue
        num_parts = 3 if is_fused else 1
        updated = range(num_parts) if layers == "all" else range(0, num_parts, 2)
        if rank > (largest := min(layer.out_features // num_parts, layer.in_features)):
            raise UserError(f"MODEL.LORA_RANK is {rank}, expected at most {largest}, a side of {name}")
        update = LowRankUpdate(layer.weight.detach(), rank, alpha, num_parts, updated)
        parametrize.register_parametrization(layer, "weight", update)
        layer.register_state_dict_post_hook(_to_ordinary)
        layer.register_load_state_dict_pre_hook(_from_ordinary)
        adapted += 1
    if not adapted:
        wanted = "linear layers" if layers == "all" else f"linear layers qkv, {', '.join(_QUERY_AND_VALUE)}"
        raise UserError(f"MODEL.LORA_RANK is {rank}, expected 0: outside of its head, this model has no {wanted}")


def merged_copy(model: nn.Module) -> nn.Module:
    """A copy of a model in which the low-rank updates are added to the weights."""
    model = copy.deepcopy(model)
    for _, layer in [*_adapted_layers(model)]:
        weight = nn.Parameter(layer.weight.detach())
        del layer.parametrizations
        # parametrize.remove_parametrizations would delete the property of a class that the copy shares.
        layer.__class__ = type(layer).__bases__[0]
        layer.weight = weight
    return model


class LowRankState:
    """The low-rank updates of a model and the frozen weights below them, for checkpoints."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self._tensors()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises KeyError or RuntimeError if the state is that of other layers or another rank."""
        for name, value in self._tensors():
            value.copy_(state[name])

    def _tensors(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, layer in _adapted_layers(self._model):
            for suffix, value in layer.parametrizations.weight.named_parameters():
                yield f"{name}.{suffix.removeprefix('0.')}", value


def _adapted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in model.named_modules():
        if parametrize.is_parametrized(layer, "weight") and isinstance(layer.parametrizations.weight[0], LowRankUpdate):
            yield name, layer


def _to_ordinary(layer: nn.Module, state: dict[str, Any], prefix: str, _: dict[str, Any]) -> None:
    """Replaces the tensors of a parametrized weight by the weight, which comes before the bias."""
    if parametrize.is_parametrized(layer, "weight"):
        for name in [name for name in state if name.startswith(f"{prefix}parametrizations.")]:
            del state[name]
        state[f"{prefix}weight"] = layer.weight.detach()
    if f"{prefix}bias" in state:
        state[f"{prefix}bias"] = state.pop(f"{prefix}bias")


def _from_ordinary(layer: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Makes a weight the frozen one, and the update zero."""
    if parametrize.is_parametrized(layer, "weight") and f"{prefix}weight" in state:
        inner, update = f"{prefix}parametrizations.weight.", layer.parametrizations.weight[0]
        state[f"{inner}original"] = state.pop(f"{prefix}weight")
        state[f"{inner}0.down"], state[f"{inner}0.up"] = update.down, torch.zeros_like(update.up)
