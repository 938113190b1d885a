"""VideoMAE compared with transformers and with facts of its original; weights/test_formats.py has its weights."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from tests.models.small import randomize, small_clip, small_videomae
from timesformer.config import get_cfg
from timesformer.engine.optim import construct_optimizer
from timesformer.models import build_model
from timesformer.models.heads import HeadOptions
from timesformer.models.parts import freeze
from timesformer.models.videomae import VideoMAE, VideoMAETransformer
from timesformer.models.weights.loading import load_pretrained

pytestmark = pytest.mark.numerical


def small_cfg(*options: object) -> object:
    cfg = get_cfg()
    sizes = ["TIMESFORMER.EMBED_DIM", 24, "TIMESFORMER.DEPTH", 2, "TIMESFORMER.NUM_HEADS", 4]
    clip = ["DATA.NUM_FRAMES", 4, "DATA.TRAIN_CROP_SIZE", 32, "VIVIT.TUBELET_SIZE", [2, 8, 8]]
    cfg.merge_from_list(["MODEL.MODEL_NAME", "VideoMAE", "MODEL.NUM_CLASSES", 5, *sizes, *clip, *options])
    return cfg


@pytest.mark.parametrize(
    ("width", "heads", "depth", "patch", "frames", "size", "mean_pooling"),
    [
        (24, 4, 2, 8, 4, (32, 32), True),
        (24, 4, 2, 8, 6, (16, 40), False),
        (384, 6, 12, 16, 16, (64, 64), True),  # S
        (768, 12, 2, 16, 8, (48, 32), True),  # the width of B
        (88, 1, 2, 14, 4, (28, 28), True),  # a head and the patches of V2's giant model
    ],
)
def test_logits_of_transformers(
    tmp_path: object,
    width: int,
    heads: int,
    depth: int,
    patch: int,
    frames: int,
    size: tuple[int, int],
    mean_pooling: bool,
) -> None:
    config = transformers.VideoMAEConfig(
        hidden_size=width,
        num_attention_heads=heads,
        num_hidden_layers=depth,
        intermediate_size=2 * width,
        image_size=size,
        patch_size=patch,
        num_frames=frames,
        use_mean_pooling=mean_pooling,
        num_labels=5,
    )
    theirs = randomize(transformers.VideoMAEForVideoClassification(config), std=0.5 * width**-0.5)
    for norm in (module for module in theirs.modules() if isinstance(module, nn.LayerNorm)):
        norm.weight.data += 1
    theirs.save_pretrained(tmp_path)
    ours = VideoMAETransformer(
        size,
        (2, patch, patch),
        num_classes=5,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=2,
        num_frames=frames,
        mean_pooling=mean_pooling,
        norm_eps=config.layer_norm_eps,
    ).eval()
    load_pretrained(ours, tmp_path, strict=True)
    clip = torch.randn(2, 3, frames, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(clip.transpose(1, 2)).logits
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(clip), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            ours.double()(clip.double()), theirs.double()(clip.double().transpose(1, 2)).logits, rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize(("frames", "size"), [(4, (32, 32)), (8, (32, 32)), (2, (16, 48))])
def test_positions_are_those_of_a_model_for_the_clip(frames: int, size: tuple[int, int]) -> None:
    model, clip = small_videomae(), torch.randn(2, 3, frames, *size)
    made_for_it = small_videomae(num_frames=frames, img_size=size)
    made_for_it.load_state_dict(model.state_dict())  # without positions
    with torch.no_grad():
        assert torch.equal(model(clip), made_for_it(clip))
    config = transformers.VideoMAEConfig(
        hidden_size=24, num_attention_heads=4, image_size=size, patch_size=8, num_frames=frames
    )
    with torch.device("cpu"):
        theirs = transformers.models.videomae.modeling_videomae.VideoMAEEmbeddings(config).position_embeddings
    torch.testing.assert_close(made_for_it.pos_embed.unsqueeze(0), theirs, rtol=0, atol=0)


def test_tokens_and_features() -> None:
    model, clip = small_videomae().double(), small_clip().double()
    with torch.no_grad():
        cls, tokens = model.forward_tokens(clip)
        assert cls is None
        assert tokens.shape == (2, 2, 4, 4, 24)
        torch.testing.assert_close(model.head(model.forward_features(clip)), model(clip))
        unpooled = small_videomae(mean_pooling=False).double()
        first = unpooled.forward_tokens(clip)[1][:, 0, 0, 0]
        torch.testing.assert_close(unpooled.forward_features(clip), first)


@pytest.mark.parametrize("head", [HeadOptions("attentive", grid=2), HeadOptions("temporal", grid=2, width=16)])
def test_heads_over_tokens(head: HeadOptions) -> None:
    model, clip = small_videomae(head=head).double(), small_clip().double()
    with torch.no_grad():
        tokens = model.head_input(clip)
        patches = model.forward_tokens(clip)[1]
        torch.testing.assert_close(tokens[:, :, 3], patches[:, :, 2:, 2:].mean((2, 3)))
        assert torch.equal(model.forward_head(tokens), model(clip))
    assert tokens.shape == (2, 2, 4, 24)


def test_bias_of_keys_has_no_effect() -> None:
    model, clip = small_videomae().double(), small_clip().double()
    with torch.no_grad():
        before = model(clip)
        for block in model.blocks:
            block.attn.qkv.bias[24:48] = torch.randn(24)
        torch.testing.assert_close(model(clip), before, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("init", ["pretrained", "scratch"])
@pytest.mark.parametrize("mean_pooling", [True, False])
def test_gradients_reach_every_parameter(init: str, mean_pooling: bool) -> None:
    model = VideoMAETransformer(16, (2, 8, 8), 3, 3, 16, 2, 2, num_frames=4, init=init, mean_pooling=mean_pooling)
    F.cross_entropy(model(torch.randn(4, 3, 4, 16, 16)), torch.tensor([0, 1, 2, 0])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def published_scale(name: str, depth: int, decay: float) -> float:
    """The factor of MCG-NJU/VideoMAE's optim_factory.py: embedding 0, then the blocks; all else as the head."""
    part = name.split(".")
    number = {"patch_embed": 0, "blocks": int(part[1]) + 1 if part[1].isdigit() else 0}.get(part[0], depth + 1)
    return decay ** (depth + 1 - number)


def test_layer_decay_is_the_published_one() -> None:
    cfg = small_cfg("SOLVER.LAYER_DECAY", 0.7, "SOLVER.ZERO_WD_1D_PARAM", True, "SOLVER.WEIGHT_DECAY", 0.05)
    model = build_model(cfg)
    found = {
        id(p): (group["lr_scale"], group["weight_decay"])
        for group in construct_optimizer(model, cfg).param_groups
        for p in group["params"]
    }
    for name, parameter in model.model.named_parameters():
        decayed = 0.0 if parameter.ndim == 1 else 0.05
        assert found[id(parameter)] == pytest.approx((published_scale(name, 2, 0.7), decayed)), name


@pytest.mark.parametrize(
    ("what", "trained"), [("backbone", ("head.",)), ("all_but_last_1", ("head.", "fc_norm.", "blocks.1."))]
)
def test_frozen_layers(what: str, trained: tuple[str, ...]) -> None:
    model = build_model(small_cfg())
    freeze(model, what)
    assert all(p.requires_grad == name.startswith(trained) for name, p in model.model.named_parameters())


def test_image_model_is_inflated(tmp_path: object) -> None:
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=32, patch_size=8
    )
    theirs = randomize(transformers.ViTForImageClassification(config))
    theirs.save_pretrained(tmp_path)
    model = small_videomae(tubelet_init="inflate")
    report = load_pretrained(model, tmp_path)
    assert set(report.new) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    picture = small_clip()[:, :, :1]
    with torch.no_grad():
        tubelets = model.patch_embed(picture.expand(-1, -1, 4, -1, -1)).flatten(2, 3)
        patches = theirs.vit.embeddings.patch_embeddings(picture[:, :, 0])
        torch.testing.assert_close(tubelets, patches.unsqueeze(1).expand(-1, 2, -1, -1), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "depth", "heads", "millions", "gflops"),
    [(384, 12, 6, 22, 57), (768, 12, 12, 87, 180), (1024, 24, 16, 305, 597)],
)
def test_published_sizes(width: int, depth: int, heads: int, millions: float, gflops: float) -> None:
    from timesformer.models.complexity import count_multiply_adds, count_parameters

    with torch.device("meta"):
        model: nn.Module = VideoMAE(embed_dim=width, depth=depth, num_heads=heads)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.9)
    assert count_multiply_adds(model, (1, 3, 16, 224, 224)) / 1e9 == pytest.approx(gflops, abs=0.6)
