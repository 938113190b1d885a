"""The registry of models by name, and building the one a configuration asks for."""

from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry
from torch import nn

from timesformer.errors import UserError

MODEL_REGISTRY = Registry("MODEL")
MODEL_REGISTRY.__doc__ = """Models by the name that MODEL.MODEL_NAME gives.

A registered class is built by its `from_config(cfg)` where it has one, else by its constructor with the configuration.
"""


def build_model(cfg: CfgNode, fresh: bool = False) -> nn.Module:
    """Builds the model MODEL.MODEL_NAME on the CPU, in training mode.

    Weights are read only where TIMESFORMER.PRETRAINED_MODEL names some or MODEL.PRETRAINED asks for a baseline's, and
    downloaded only where they are not on this machine. `torchvision/<name>` and `timm/<name>` are baselines, any other
    name is in the registry.

    Args:
        cfg: the configuration.
        fresh: leave those two out, because the weights are going to come from elsewhere.

    Raises:
        UserError: if no model has that name.
    """
    if fresh:
        cfg = cfg.clone()
        cfg.MODEL.PRETRAINED, cfg.TIMESFORMER.PRETRAINED_MODEL = False, ""
    name = cfg.MODEL.MODEL_NAME
    if "/" in name:
        from timesformer.models.baselines import BASELINES  # here, because most runs need none

        if (library := name.partition("/")[0]) in BASELINES:
            return BASELINES[library].from_config(cfg)
    if name not in MODEL_REGISTRY:
        known = ", ".join(sorted(registered for registered, _ in MODEL_REGISTRY))
        raise UserError(
            f"MODEL.MODEL_NAME is {name!r}, which is not a model of this project; known are: {known}, "
            "torchvision/<name> and timm/<name>"
        )
    model_class = MODEL_REGISTRY.get(name)
    return model_class.from_config(cfg) if hasattr(model_class, "from_config") else model_class(cfg)
