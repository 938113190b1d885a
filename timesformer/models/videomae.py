"""VideoMAE and VideoMAE V2: a plain vision transformer over tubelets (arXiv:2203.12602, arXiv:2303.16727)."""

from functools import partial
from typing import Any, get_args

import torch
from einops import rearrange
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.models.blocks import Init, check_choice, joint_forward, make_blocks
from timesformer.models.build import MODEL_REGISTRY, RegisteredTransformer, transformer_options
from timesformer.models.embeddings import Interpolation, TubeletEmbed, TubeletInit, sinusoidal_positions
from timesformer.models.heads import LINEAR, ClipNetwork, HeadOptions

FC_NORM_EPS = 1e-5  # of transformers, whatever its layer_norm_eps; 1e-6 in the original
HEAD_SCALE = 0.001  # of the original's initial head


class VideoMAETransformer(ClipNetwork):
    """The encoder of VideoMAE with a head; see also `VideoTransformer`.

    All tokens attend to all others. Positions are fixed (`sinusoidal_positions`), not part of checkpoints, and computed
    for the size of the clip. A linear head reads the normalized mean token (`fc_norm`), or without `mean_pooling` the
    first of the normalized tokens (`norm`), as in transformers.

    The original has biases of queries and values only. Here keys have one too, as in an ordinary ViT: it adds the same
    number to all scores of a query, which the softmax removes. Weights of both kinds load without loss, and the export
    to transformers leaves the bias of the keys out.
    """

    attention_type = "joint"
    pos_embed_interpolation: Interpolation = "bicubic"  # no embedding is resized
    layers_with_head = ("norm", "fc_norm")  # the learning rate of the head (SOLVER.LAYER_DECAY), as in the original

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        tubelet_size: tuple[int, int, int] = (2, 16, 16),
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_frames: int = 16,
        mean_pooling: bool = True,
        norm_eps: float = 1e-6,
        tubelet_init: TubeletInit = "central",
        dropout: float = 0.0,
        init: Init = "pretrained",
        head: HeadOptions = LINEAR,
    ) -> None:
        super().__init__()
        check_choice("tubelet_init", tubelet_init, get_args(TubeletInit))
        check_choice("init", init, get_args(Init))
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.grid = (num_frames // tubelet_size[0], height // tubelet_size[1], width // tubelet_size[2])
        self.mean_pooling = mean_pooling
        self.last_block_cls_only = not mean_pooling  # the first token only
        norm_layer = partial(nn.LayerNorm, eps=norm_eps)

        self.patch_embed = TubeletEmbed(tubelet_size, in_chans, embed_dim, tubelet_init)
        steps, rows, columns = self.grid
        positions = sinusoidal_positions(steps * rows * columns, embed_dim).to(torch.get_default_device())
        self.register_buffer("pos_embed", positions, persistent=False)
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = make_blocks(
            depth,
            drop_path_rate,
            dim=embed_dim,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=True,
            drop=drop_rate,
            attn_drop=attn_drop_rate,
            norm_layer=norm_layer,
            attention_type="joint_space_time",
        )
        if mean_pooling:
            self.fc_norm = nn.LayerNorm(embed_dim, eps=FC_NORM_EPS)
        else:
            self.norm = norm_layer(embed_dim)
        self.add_head(embed_dim, num_classes, dropout, head, steps, has_cls=False)
        self.initialize(init)

    @torch.no_grad()
    def initialize(self, init: Init) -> None:
        """Initializes the linear layers, see `initialize_linear`; "pretrained" also scales a linear head down."""
        self.initialize_layers(init)
        if init == "pretrained" and isinstance(self.head, nn.Linear):
            self.head.weight.mul_(HEAD_SCALE)

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips [batch, channels, frames, height, width] to the normalized mean (or first) token [batch, dim]."""
        if self.mean_pooling:
            return self.fc_norm(self._encode(self.patch_embed(x)).mean(dim=1))
        return self.norm(self._encode(self.patch_embed(x), num_outputs=1 if self.last_block_cls_only else None)[:, 0])

    def forward_tokens(self, x: Tensor) -> tuple[None, Tensor]:
        """None, as there is no class token, and normalized patches, see `ClipNetwork`."""
        tubelets = self.patch_embed(x)
        tokens = (self.fc_norm if self.mean_pooling else self.norm)(self._encode(tubelets))
        return None, tokens.view(tubelets.shape)

    def _encode(self, tubelets: Tensor, num_outputs: int | None = None) -> Tensor:
        """[batch, steps, rows, columns, dim] to [batch, tokens, dim]."""
        tokens = rearrange(tubelets, "b t h w d -> b (t h w) d")
        positions = self.pos_embed
        if tuple(tubelets.shape[1:4]) != self.grid:
            positions = sinusoidal_positions(tokens.shape[1], self.embed_dim).to(positions)
        return joint_forward(self.blocks, self.pos_drop(tokens + positions), num_outputs)


@MODEL_REGISTRY.register()
class VideoMAE(RegisteredTransformer):
    """VideoMAE-B by default, as MCG-NJU/videomae-base; `options` are those of `VideoMAETransformer`."""

    def __init__(
        self, num_classes: int = 400, pretrained_model: str = "", strict_loading: bool = False, **options: Any
    ) -> None:
        super().__init__(VideoMAETransformer(num_classes=num_classes, **options), pretrained_model, strict_loading)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "VideoMAE":
        """The model that MODEL.*, DATA.*, VIDEOMAE.*, VIVIT.TUBELET_* and TIMESFORMER.* describe."""
        options = transformer_options(cfg)
        del options["pos_embed_interpolation"]
        return cls(
            **options,
            tubelet_size=tuple(cfg.VIVIT.TUBELET_SIZE),
            tubelet_init=cfg.VIVIT.TUBELET_INIT,
            mean_pooling=cfg.VIDEOMAE.MEAN_POOLING,
            norm_eps=cfg.VIDEOMAE.NORM_EPS,
        )
