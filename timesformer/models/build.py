"""The registry of models, and what its transformers share."""

import logging
from collections.abc import Sequence
from typing import Any

from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor, nn

from timesformer.errors import UserError
from timesformer.models.heads import ClipNetwork, HeadOptions
from timesformer.models.parts import inner_model
from timesformer.models.weights.loading import load_pretrained
from timesformer.models.weights.normalization import warn_of_normalization
from timesformer.models.weights.trained_split import warn_of_split

logger = logging.getLogger(__name__)

MODEL_REGISTRY = Registry("MODEL")
"""Models by MODEL.MODEL_NAME: functions of the configuration, or classes with a method `from_config(cfg)`."""


class RegisteredTransformer(nn.Module):
    """A network as `.model`, the prefix in every checkpoint; the other arguments are those of `load_pretrained`."""

    def __init__(self, model: ClipNetwork, pretrained_model: str = "", strict_loading: bool = False) -> None:
        super().__init__()
        self.model = model
        self.normalization: tuple[Sequence[float], Sequence[float]] = ((), ())  # mean, std of pretrained_model if known
        self.trained_config: Any = None  # of the training of pretrained_model, as YAML, if it has one
        self.new_parameters: list[str] = []  # tensors that pretrained_model lacks, without the prefix
        if pretrained_model:
            report = load_pretrained(self, pretrained_model, model.pos_embed_interpolation, strict_loading)
            logger.info("weights from %s\n%s", pretrained_model, report.table())
            self.normalization = (report.metadata.mean, report.metadata.std)
            self.trained_config = report.rest.get("cfg")
            self.new_parameters = report.new

    def forward(self, x: Tensor) -> Tensor:
        """Clips [batch, 3, frames, height, width] (float, normalized) to logits [batch, classes]."""
        return self.model(x)

    def head_input(self, x: Tensor) -> Tensor:
        """Clips to what the head reads, see `ClipNetwork`."""
        return self.model.head_input(x)

    def forward_head(self, x: Tensor) -> Tensor:
        """The result of `head_input` to logits [batch, classes]."""
        return self.model.forward_head(x)


def transformer_options(cfg: CfgNode) -> dict[str, Any]:
    """The arguments that all registered transformers take from the configuration."""
    options = cfg.TIMESFORMER
    return {
        "img_size": cfg.DATA.TRAIN_CROP_SIZE,
        "num_classes": cfg.MODEL.NUM_CLASSES,
        "num_frames": cfg.DATA.NUM_FRAMES,
        "pretrained_model": options.PRETRAINED_MODEL,
        "strict_loading": cfg.TRAIN.STRICT_LOADING,
        "embed_dim": options.EMBED_DIM,
        "depth": options.DEPTH,
        "num_heads": options.NUM_HEADS,
        "mlp_ratio": options.MLP_RATIO,
        "drop_rate": options.DROP_RATE,
        "attn_drop_rate": options.ATTN_DROP_RATE,
        "drop_path_rate": options.DROP_PATH_RATE,
        "dropout": cfg.MODEL.DROPOUT_RATE,
        "pos_embed_interpolation": options.POS_EMBED_INTERPOLATION,
        "init": options.INIT,
        "head": HeadOptions.from_config(cfg),
    }


def build_model(cfg: CfgNode, fresh: bool = False, network_config: dict[str, Any] | None = None) -> nn.Module:
    """Builds MODEL.MODEL_NAME, or raises UserError; `fresh` ignores PRETRAINED_MODEL and MODEL.PRETRAINED.

    `network_config` is that of a checkpoint, from which transformers/<name> is built without its folder or the hub.
    """
    if fresh:
        cfg = cfg.clone()
        cfg.MODEL.PRETRAINED, cfg.TIMESFORMER.PRETRAINED_MODEL = False, ""
    model = _build(cfg, network_config)
    options = getattr(inner_model(model), "head_options", HeadOptions())
    if options.kind != cfg.MODEL.HEAD:
        raise UserError(f"MODEL.HEAD is {cfg.MODEL.HEAD}, expected {options.kind}, the head of {cfg.MODEL.MODEL_NAME}")
    return model


def _build(cfg: CfgNode, network_config: dict[str, Any] | None) -> nn.Module:
    name = cfg.MODEL.MODEL_NAME
    if "/" in name:
        from timesformer.models.baselines import BASELINES  # only where needed

        if (library := name.partition("/")[0]) in BASELINES:
            return BASELINES[library].from_config(cfg)
        if library == "transformers":
            from timesformer.models.transformers_models import TransformersModel

            return TransformersModel.from_config(cfg, network_config)
    if name not in MODEL_REGISTRY:
        known = ", ".join(sorted(registered for registered, _ in MODEL_REGISTRY))
        known += ", torchvision/<name>, timm/<name>, transformers/<name>, or a model that IMPORTS registers"
        raise UserError(f"MODEL.MODEL_NAME is {name!r}, expected one of {known}")
    model_class = MODEL_REGISTRY.get(name)
    model = model_class.from_config(cfg) if hasattr(model_class, "from_config") else model_class(cfg)
    if isinstance(model, RegisteredTransformer):
        warn_of_normalization(cfg, cfg.TIMESFORMER.PRETRAINED_MODEL, *model.normalization)
        warn_of_split(cfg, cfg.TIMESFORMER.PRETRAINED_MODEL, {"cfg": model.trained_config})
    return model
