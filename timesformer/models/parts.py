"""A model's layers from the input to the head: which are frozen, and how far each is from the head."""

import re

from torch import nn

from timesformer.errors import UserError
from timesformer.torchvision_import import import_package


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Names of a model's heads, without the leading `model.`; baselines keep them as `head_names`."""
    return getattr(model, "head_names", ("head",))


def layer_numbers(model: nn.Module) -> dict[str, int]:
    """The number of the layer that each parameter belongs to.

    0 is what comes before the first block (patch embedding, position embeddings, a convolutional stem), then follows
    each block, with whatever stands behind it such as the last norm, and the head is last. A timm model is asked for
    its layers; in any other, the blocks are the entries of its lists of modules, in the order they were registered.

    Args:
        model: a model by the name of MODEL.MODEL_NAME, which holds the network as `.model`.

    Returns:
        Numbers without a gap from 0, by the parameter's name in `model`.
    """
    network = model.model
    names = [name for name, _ in network.named_parameters()]
    if hasattr(network, "group_matcher"):
        manipulate = import_package("timm.models", "a timm model")
        order = manipulate.group_parameters(network, network.group_matcher(coarse=False), reverse=True)
    else:
        blocks = {
            f"{list_name}.{index}": None
            for list_name, modules in network.named_children()
            if isinstance(modules, (nn.ModuleList, nn.Sequential))
            for index, block in enumerate(modules)
            if any(True for _ in block.children()) and any(True for _ in block.parameters())
        }
        number_of = {block: number for number, block in enumerate(blocks, start=1)}
        order, current = {}, 0
        for name in names:
            current = number_of.get(".".join(name.split(".")[:2]), current)
            order[name] = current
    heads = tuple(f"{head}." for head in head_names(model))
    order = {name: float("inf") if name.startswith(heads) else order[name] for name in names}
    ranks = {number: rank for rank, number in enumerate(sorted(set(order.values())))}
    return {f"model.{name}": ranks[number] for name, number in order.items()}


def freeze(model: nn.Module, what: str) -> None:
    """Marks the parameters that stay as they are, so that neither gradients nor updates are computed for them.

    Args:
        model: as for `layer_numbers`.
        what: "none"; "backbone", all but the head; "all_but_last_N", all but the last N blocks and what follows them.

    Raises:
        UserError: if the model has no more than N blocks.
    """
    if what == "none":
        return
    numbers = layer_numbers(model)
    head = max(numbers.values())
    last = int(match[1]) if (match := re.fullmatch(r"all_but_last_(\d+)", what)) else 0
    if last >= head:
        raise UserError(
            f"MODEL.FREEZE is {what}, but the model has {head - 1} blocks behind its first layer; expected "
            f"all_but_last_{head - 1} at most, or MODEL.FREEZE none to train everything"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(numbers[name] >= head - last)


def train_mode(model: nn.Module) -> None:
    """Puts the model in training mode, except for what is frozen.

    Frozen norms keep their statistics. Dropout acts only where something that is trained comes after it, and not
    within a frozen block.
    """
    model.train()
    trained = True
    for module in reversed([module for module in model.modules() if not any(True for _ in module.children())]):
        if parameters := list(module.parameters()):
            trained = any(parameter.requires_grad for parameter in parameters)
        module.train(trained)
    for module in model.modules():
        if (parameters := list(module.parameters())) and not any(p.requires_grad for p in parameters):
            module.eval()
