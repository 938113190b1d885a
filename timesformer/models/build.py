"""The registry of models by name, and building the one a configuration asks for."""

from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry
from torch import nn

from timesformer.errors import UserError

MODEL_REGISTRY = Registry("MODEL")
MODEL_REGISTRY.__doc__ = """Models by the name that MODEL.MODEL_NAME gives.

A registered class is built by its `from_config(cfg)` where it has one, else by its constructor with the configuration.
"""


def build_model(cfg: CfgNode) -> nn.Module:
    """Builds the model MODEL.MODEL_NAME on the CPU, in training mode.

    Weights are read only where TIMESFORMER.PRETRAINED_MODEL names some, and downloaded only where it names a place that
    is not on this machine.

    Raises:
        UserError: if no model has that name.
    """
    name = cfg.MODEL.MODEL_NAME
    if name not in MODEL_REGISTRY:
        known = ", ".join(sorted(registered for registered, _ in MODEL_REGISTRY))
        raise UserError(f"MODEL.MODEL_NAME is {name!r}, which is not a model of this project; known are: {known}")
    model_class = MODEL_REGISTRY.get(name)
    return model_class.from_config(cfg) if hasattr(model_class, "from_config") else model_class(cfg)
