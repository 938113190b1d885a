"""Heads over tokens: what they compute, what they read, and loading their weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.models.small import randomize, save, small_clip, small_timesformer, small_vivit
from timesformer.models.heads import AttentiveHead, ClipNetwork, HeadOptions, TemporalHead
from timesformer.models.vit import ATTENTION_TYPES
from timesformer.models.weights.loading import load_pretrained

pytestmark = pytest.mark.numerical

VIVIT_TYPES = ("joint", "factorised_encoder", "factorised_self_attention")
TOKEN_HEADS = (HeadOptions("attentive", grid=2), HeadOptions("temporal", grid=2, width=16, depth=2))


def build(attention_type: str, head: HeadOptions, seed: int = 0, **changes: object) -> ClipNetwork:
    build = small_vivit if attention_type in VIVIT_TYPES else small_timesformer
    return build(attention_type, seed, head=head, **changes).double()


def tokens_of(head: nn.Module, dim: int, steps: int = 3, tokens: int = 5) -> Tensor:
    randomize(head).double()
    return torch.randn(2, steps, tokens, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_attentive_head_is_torch_attention_of_the_query() -> None:
    head = AttentiveHead(128, steps=3, num_classes=4)
    tokens = tokens_of(head, 128)
    attention = nn.MultiheadAttention(128, 2, batch_first=True, dtype=torch.float64)
    kv = head.kv
    attention.in_proj_weight.data = torch.cat([head.q.weight, kv.weight]).detach()
    attention.in_proj_bias.data = torch.cat([head.q.bias, kv.bias]).detach()
    attention.out_proj.weight.data = torch.eye(128, dtype=torch.float64)  # the probe has no output projection
    attention.out_proj.bias.data.zero_()
    with torch.no_grad():
        x = (head.norm1(tokens) + head.time_embed[0, :, None]).flatten(1, 2)
        query = head.query.expand(2, 1, -1)
        query = query + attention(query, x, x)[0]
        query = query + head.mlp.fc2(nn.functional.gelu(head.mlp.fc1(head.norm2(query))))
        expected = head.classifier(head.output_norm(query[:, 0]))
        torch.testing.assert_close(head(tokens), expected, rtol=1e-9, atol=1e-11)


def test_temporal_head_is_torch_transformer_over_the_steps() -> None:
    head = TemporalHead(6, tokens=5, steps=3, num_classes=4, width=8, depth=2)
    tokens = tokens_of(head, 6)
    with torch.no_grad():
        x = nn.functional.layer_norm(tokens.reshape(2, 3, 30), (30,), *head.input_norm.parameters(), 1e-6)
        x = head.embed(x) + head.time_embed
        for layer in head.layers:
            theirs = nn.TransformerEncoderLayer(
                8, 4, 32, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64
            )
            ours = [layer.attn.qkv, layer.attn.proj, layer.mlp.fc1, layer.mlp.fc2, layer.norm1, layer.norm2]
            values = [parameter for module in ours for parameter in module.parameters()]
            for parameter, value in zip(theirs.parameters(), values, strict=True):
                parameter.copy_(value)
            theirs.norm1.eps = theirs.norm2.eps = layer.norm1.eps
            x = theirs(x)
        expected = head.classifier(head.output_norm(x).flatten(1))
        torch.testing.assert_close(head(tokens), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("attention_type", [*ATTENTION_TYPES, *VIVIT_TYPES])
@pytest.mark.parametrize("head", TOKEN_HEADS, ids=lambda head: head.kind)
def test_head_reads_normalized_tokens_of_every_step(attention_type: str, head: HeadOptions) -> None:
    network, clip = build(attention_type, head), small_clip(6, 32).double()
    steps, has_cls = 3 if attention_type in VIVIT_TYPES else 6, attention_type != "factorised_self_attention"
    linear = build(attention_type, HeadOptions())
    linear.load_state_dict({n: v for n, v in network.state_dict().items() if "head" not in n}, strict=False)
    with torch.no_grad():
        cls, patches = network.forward_tokens(clip)
        tokens = network.head_input(clip)
        assert torch.equal(network(clip), network.forward_head(tokens))
        features = linear.forward_features(clip)
    assert patches.shape == (2, steps, 4, 4, 24)
    assert tokens.shape == (2, steps, has_cls + 4, 24)
    corners = patches.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean(dim=(3, 5)).flatten(2, 3)
    torch.testing.assert_close(tokens[:, :, has_cls:], corners, rtol=1e-9, atol=1e-12)
    if has_cls:
        torch.testing.assert_close(tokens[:, :, :1], cls, rtol=0, atol=0)
    if attention_type in ("divided_space_time", "joint_space_time", "joint"):
        torch.testing.assert_close(cls[:, :, 0], features.unsqueeze(1).expand(-1, steps, -1), rtol=1e-9, atol=1e-11)
    elif not has_cls:
        torch.testing.assert_close(patches.mean(dim=(1, 2, 3)), features, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("head", [HeadOptions(), *TOKEN_HEADS], ids=lambda head: head.kind)
def test_order_of_frames_of_an_image_network(head: HeadOptions) -> None:
    network, clip = build("space_only", head), small_clip().double()
    with torch.no_grad():
        is_same = torch.allclose(network(clip), network(clip.flip(2)), rtol=1e-9)
    assert is_same == (head.kind == "linear")


@pytest.mark.parametrize("head", TOKEN_HEADS, ids=lambda head: head.kind)
def test_few_features_are_learned_in_few_steps(head: HeadOptions) -> None:
    """Two classes with the same tokens in opposite order."""
    torch.manual_seed(0)
    network = ClipNetwork()
    network.add_head(24, 2, 0.0, head, steps=4, has_cls=True)
    forward = torch.randn(1, 4, 5, 24) + 0.1 * torch.randn(20, 4, 5, 24)
    tokens, labels = torch.cat([forward, forward.flip(1)]), torch.arange(2).repeat_interleave(20)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    with torch.no_grad():
        assert network.forward_head(tokens).abs().max() < 1
    for _ in range(100):
        loss = nn.functional.cross_entropy(network.forward_head(tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


class TestLoading:
    def test_head_of_another_kind_stays_fresh(self, tmp_path: Path) -> None:
        linear = build("divided_space_time", HeadOptions(), seed=1)
        for head in TOKEN_HEADS:
            network = build("divided_space_time", head)
            before = {name: tensor.clone() for name, tensor in network.head.state_dict().items()}
            report = load_pretrained(network, save(linear.state_dict(), tmp_path))
            assert set(report.new) == {f"head.{name}" for name in before}
            assert report.unused == ["head.weight", "head.bias"]
            assert all(torch.equal(tensor, before[name]) for name, tensor in network.head.state_dict().items())
            assert torch.equal(network.blocks[0].mlp.fc1.weight, linear.blocks[0].mlp.fc1.weight)
            report = load_pretrained(linear, save(network.state_dict(), tmp_path))
            assert report.new == ["head.weight", "head.bias"]
        report = load_pretrained(build("divided_space_time", TOKEN_HEADS[0]), save(network.state_dict(), tmp_path))
        assert all(name.startswith("head.") for name in (*report.new, *report.unused))

    @pytest.mark.parametrize("head", TOKEN_HEADS, ids=lambda head: head.kind)
    def test_head_of_the_same_kind(self, head: HeadOptions, tmp_path: Path) -> None:
        trained = build("joint", head, seed=1)
        state = {f"model.{name}": tensor for name, tensor in trained.state_dict().items()}
        path, clip = save({"model_state": state}, tmp_path), small_clip().double()
        same = build("joint", head)
        report = load_pretrained(same, path)
        assert (report.new, report.unused, report.adapted) == ([], [], [])
        with torch.no_grad():
            assert torch.equal(same(clip), trained(clip))
        other = build("joint", head, num_classes=7, num_frames=8)
        report = load_pretrained(other, path)
        assert report.new == ["head.classifier.weight", "head.classifier.bias"]
        assert {name for name, _ in report.adapted} == {"pos_embed", "head.time_embed"}

    def test_head_of_another_number_of_steps(self, tmp_path: Path) -> None:
        head = TOKEN_HEADS[1]
        trained, longer = (build("joint", head, num_frames=frames) for frames in (4, 8))
        with torch.no_grad():
            trained.head.time_embed[:] = trained.head.time_embed[:, :1]  # no order
            report = load_pretrained(longer, save(trained.state_dict(), tmp_path))
            tokens = torch.randn(2, 1, 5, 24, dtype=torch.float64)
            logits = [model.forward_head(tokens.expand(-1, n, -1, -1)) for n, model in ((2, trained), (4, longer))]
        assert {name for name, _ in report.adapted} == {"pos_embed", "head.time_embed", "head.classifier.weight"}
        torch.testing.assert_close(*logits, rtol=0, atol=1e-6)  # weights are resized in float32
