"""The layers of a model from the input to the head: their numbers, and freezing some of them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from timesformer.errors import UserError, shorten
from timesformer.torchvision_import import import_package


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the layers that give the logits, without the leading `model.`; baselines have them as an attribute."""
    return getattr(model, "head_names", ("head",))


def output_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the linear layers that give the logits: the head, or the classifier of a head over tokens."""
    heads = ((head, inner_model(model).get_submodule(head)) for head in head_names(model))
    return tuple(f"{name}.classifier" if hasattr(head, "classifier") else name for name, head in heads)


def inner_model(model: nn.Module) -> nn.Module:
    """The network inside the adapter that most registered models are; the model itself if it has no `.model`."""
    return getattr(model, "model", model)


@contextmanager
def record_features(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within the context, each forward pass adds what the (first) output layer reads to the list, [batch, dim].

    It is averaged over frames and positions if the model averages its logits over them.
    """
    layer, sizes, features = inner_model(model).get_submodule(output_names(model)[0]), [], []
    hooks = (
        model.register_forward_pre_hook(lambda _, clips: sizes.append(len(clips[0]))),
        layer.register_forward_pre_hook(lambda _, inputs: features.append(_average(inputs[0], layer, sizes[-1]))),
    )
    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()


def _average(inputs: Tensor, layer: nn.Module, batch: int) -> Tensor:
    inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    if inputs.ndim > 2:
        is_conv = isinstance(layer, nn.Conv2d | nn.Conv3d)
        inputs = inputs.flatten(2).mean(dim=2) if is_conv else inputs.flatten(1, -2).mean(dim=1)
    return inputs.unflatten(0, (batch, -1)).mean(dim=1)


def layer_numbers(model: nn.Module) -> dict[str, int]:
    """The number of the layer of each parameter: 0 before the first block, then the blocks, last the head.

    Layers of timm models are timm's; elsewhere, a block is an entry of a module list, with what follows it. The network
    may have `layers_with_head`, names of layers that count as part of the head.
    """
    network = inner_model(model)
    backbone = getattr(network, "backbone", network)
    if hasattr(backbone, "group_matcher"):
        timm = import_package("timm.models", "the layers of a timm model")
        order = timm.group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
        if backbone is not network:
            order = {f"backbone.{name}": number for name, number in order.items()}
            order |= {name: -1 for name, _ in network.named_parameters() if name not in order}  # of the head
    else:
        blocks = [
            f"{list_name}.{index}"
            for list_name, modules in _module_lists(network, getattr(model, "blocks_in", None))
            for index, block in enumerate(modules)
            if any(True for _ in block.children()) and any(True for _ in block.parameters())
        ]
        number_of = {block: number for number, block in enumerate(blocks, start=1)}
        order, current = {}, 0
        depths = {block.count(".") + 1 for block in blocks}
        for name, _ in network.named_parameters():
            parents = (".".join(name.split(".")[:depth]) for depth in depths)
            current = next((number_of[parent] for parent in parents if parent in number_of), current)
            order[name] = current
    heads = tuple(f"{head}." for head in head_names(model))
    if not any(name.startswith(heads) for name in order):
        raise UserError(f"{type(model).__name__} has no {head_names(model)}: set head_names to its output layers")
    last = heads + tuple(f"{name}." for name in getattr(network, "layers_with_head", ()))
    order |= {name: float("inf") for name in order if name.startswith(last)}
    ranks = {number: rank for rank, number in enumerate(sorted(set(order.values())))}
    prefix = "" if network is model else "model."
    return {f"{prefix}{name}": ranks[order[name]] for name, _ in network.named_parameters()}


def _module_lists(network: nn.Module, blocks_in: str | None) -> list[tuple[str, nn.ModuleList | nn.Sequential]]:
    """The lists among the children of a network, or all in its part `blocks_in`; not those inside of lists."""
    found: list[tuple[str, nn.ModuleList | nn.Sequential]] = []
    for name, module in network.named_modules() if blocks_in else network.named_children():
        inside = blocks_in is None or f"{name}.".startswith(f"{blocks_in}.")
        nested = any(name.startswith(f"{other}.") for other, _ in found)
        if isinstance(module, nn.ModuleList | nn.Sequential) and inside and not nested:
            found.append((name, module))
    return found


def head_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters of the layers that give the logits."""
    prefix = "" if inner_model(model) is model else "model."
    heads = tuple(f"{prefix}{name}." for name in head_names(model))
    return {name for name, _ in model.named_parameters() if name.startswith(heads)}


def temporal_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that an image model lacks: temporal attention, its norms and embeddings."""
    heads = head_parameters(model)
    parts = {name: name.split(".") for name, _ in model.named_parameters() if name not in heads}
    return {name for name, words in parts.items() if any(re.match(r"temporal_|time_embed", word) for word in words)}


def freeze(model: nn.Module, what: str, unfrozen: Sequence[str] = ()) -> list[nn.Parameter]:
    """Freezes nothing ("none"), all but the head ("backbone"), or all but N blocks and the head ("all_but_last_N").

    `unfrozen` names parameters that are not frozen by parts of their names, such as time_embed or blocks.0.norm1.
    Returns the parameters that are frozen now. Raises UserError if there are fewer blocks, or no such parameters.
    """
    if what == "none":
        return []
    numbers = layer_numbers(model)
    head = max(numbers.values())
    last = int(match[1]) if (match := re.fullmatch(r"all_but_last_(\d+)", what)) else 0
    if last >= head:
        raise UserError(f"MODEL.FREEZE is {what}, but the model has {head - 1} blocks; choose a smaller number")
    if unknown := [part for part in unfrozen if not any(_has_part(name, part) for name in numbers)]:
        raise UserError(f"MODEL.UNFROZEN has {unknown[0]!r}, expected parts of names such as {shorten(numbers)}")
    trained = {name for name, number in numbers.items() if number >= head - last} if last else head_parameters(model)
    trained |= {name for name in numbers if any(_has_part(name, part) for part in unfrozen)}
    frozen = []
    for name, parameter in model.named_parameters():
        frozen += [parameter] if parameter.requires_grad and name not in trained else []
        parameter.requires_grad_(name in trained)
    return frozen


def _has_part(name: str, part: str) -> bool:
    return f".{part}." in f".{name}."


def train_mode(model: nn.Module) -> None:
    """Sets training mode, except for frozen layers before the first trained one and dropout that only they follow.

    Of the frozen layers after it, norms keep their statistics, and dropout acts.
    """
    model.train()
    modules = list(model.modules())
    is_leaf = [not any(True for _ in module.children()) for module in modules]
    first = next((i for i, module in enumerate(modules) if is_leaf[i] and _trained(module)), len(modules))
    is_frozen = False
    for index in reversed(range(first)):
        if is_leaf[index]:
            is_frozen = is_frozen or _trained(modules[index]) is False
            modules[index].train(not is_frozen)
    for index, module in enumerate(modules):
        if _trained(module) is False and (index < first or is_leaf[index]):
            module.eval()


def _trained(module: nn.Module) -> bool | None:
    """Whether a module has trained parameters; None if it has no parameters."""
    parameters = list(module.parameters())
    return any(parameter.requires_grad for parameter in parameters) if parameters else None
