"""What the transformers that have a name in the registry share: the wrapper around the network, and their options."""

import logging
from typing import Any

from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.models.weights.loading import load_pretrained

logger = logging.getLogger(__name__)


class NamedTransformer(nn.Module):
    """A transformer as `.model`, so that names in the state dict begin with `model.`, as in every checkpoint.

    Args:
        model: the transformer.
        pretrained_model: weights to start from, as `weights.read_checkpoint` takes them; "" starts without.
        strict_loading: refuse weights that leave anything new or unused.
    """

    def __init__(self, model: nn.Module, pretrained_model: str = "", strict_loading: bool = False) -> None:
        super().__init__()
        self.model = model
        if pretrained_model:
            report = load_pretrained(self, pretrained_model, model.pos_embed_interpolation, strict_loading)
            logger.info("weights from %s\n%s", pretrained_model, report.table())

    def forward(self, x: Tensor) -> Tensor:
        """Clips [batch, 3, frames, height, width] (float, normalised) to logits [batch, classes]."""
        return self.model(x)


def shared_options(cfg: CfgNode) -> dict[str, Any]:
    """Arguments that every named transformer takes from the configuration."""
    options = cfg.TIMESFORMER
    return {
        "img_size": cfg.DATA.TRAIN_CROP_SIZE,
        "num_classes": cfg.MODEL.NUM_CLASSES,
        "num_frames": cfg.DATA.NUM_FRAMES,
        "pretrained_model": options.PRETRAINED_MODEL,
        "strict_loading": cfg.TRAIN.STRICT_LOADING,
        "mlp_ratio": options.MLP_RATIO,
        "drop_rate": options.DROP_RATE,
        "attn_drop_rate": options.ATTN_DROP_RATE,
        "drop_path_rate": options.DROP_PATH_RATE,
        "dropout": cfg.MODEL.DROPOUT_RATE,
        "pos_embed_interpolation": options.POS_EMBED_INTERPOLATION,
        "init": options.INIT,
    }


def size_options(cfg: CfgNode) -> dict[str, int]:
    """Width, depth and heads of a transformer that has no preset."""
    options = cfg.TIMESFORMER
    return {"embed_dim": options.EMBED_DIM, "depth": options.DEPTH, "num_heads": options.NUM_HEADS}
