"""An image model of timm applied to every frame, with a head that sees the frames in order."""

import math

from einops import rearrange, reduce
from torch import Tensor, nn

from timesformer.errors import UserError
from timesformer.models.heads import ClipNetwork, HeadOptions


class FrameNetwork(ClipNetwork):
    """A timm model without classifier as `backbone`; tokens of a frame are its pooled output and its last features.

    The pooled output is a vision transformer's class token, or as the model defines it. It is not a token if it is of
    another width than the features.
    """

    def __init__(
        self, backbone: nn.Module, num_frames: int, num_classes: int, dropout: float, head: HeadOptions
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.embed_dim: int = backbone.num_features
        self.has_cls = backbone.head_hidden_size == backbone.num_features
        self.add_head(self.embed_dim, num_classes, dropout, head, num_frames, self.has_cls)

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips [batch, 3, frames, height, width] to the mean over the frames of the pooled output, [batch, width]."""
        features = self.backbone.forward_features(rearrange(x, "b c t h w -> (b t) c h w"))
        pooled = self.backbone.forward_head(features, pre_logits=True)
        return reduce(pooled, "(b t) d -> b d", "mean", t=x.shape[2])

    def forward_tokens(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Pooled outputs and features of all frames, see `ClipNetwork`; UserError if the features have no grid."""
        features = self.backbone.forward_features(rearrange(x, "b c t h w -> (b t) c h w"))
        patches = self._grid_of(features, x.shape[-2], x.shape[-1]).unflatten(0, (-1, x.shape[2]))
        if not self.has_cls:
            return None, patches
        pooled = self.backbone.forward_head(features, pre_logits=True)
        return rearrange(pooled, "(b t) d -> b t 1 d", t=x.shape[2]), patches

    def _grid_of(self, features: Tensor, height: int, width: int) -> Tensor:
        """[images, rows, columns, dim] from maps with channels first or last, or from prefix tokens and patches."""
        if isinstance(features, Tensor) and features.ndim == 4:
            return features if features.shape[-1] == self.embed_dim else rearrange(features, "n d h w -> n h w d")
        if isinstance(features, Tensor) and features.ndim == 3:
            # Some models do not declare their class token.
            for prefix in dict.fromkeys((getattr(self.backbone, "num_prefix_tokens", 0), 0, 1)):
                patches = features.shape[1] - prefix
                rows = round(math.sqrt(patches * height / width))
                if rows and rows * width == patches // rows * height and patches % rows == 0:
                    return rearrange(features[:, prefix:], "n (h w) d -> n h w d", h=rows)
        found = list(features.shape) if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise UserError(
            f"MODEL.HEAD is {self.head_options.kind}, which needs a grid of features, but those of "
            f"{type(self.backbone).__name__} are {found}: choose another MODEL.MODEL_NAME, or set MODEL.HEAD linear"
        )
