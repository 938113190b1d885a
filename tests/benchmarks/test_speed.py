"""What is timed beside Hugging Face's model computes the same, and is timed in turn."""

import importlib.util

import pytest
import torch

from tools.benchmark import speed
from tools.benchmark.steps import logits_of

pytestmark = pytest.mark.numerical
needs_peer = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="the peer, Hugging Face transformers, is not installed"
)


@needs_peer
@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time"])
@pytest.mark.parametrize("step", ["eval", "train"])
def test_logits_equal_those_of_hugging_face(attention_type: str, step: str) -> None:
    ours, theirs = speed.model_pair(attention_type, 4, 64, torch.device("cpu"), width=48, depth=3, heads=4)
    clip = torch.randn(2, 3, 4, 64, 64, dtype=torch.float64)
    for model in (ours, theirs):
        model.double().train(step == "train")
    torch.testing.assert_close(logits_of(ours, clip), logits_of(theirs, clip), rtol=1e-9, atol=1e-12)


def test_pairs_are_timed_in_turn_after_a_warm_up() -> None:
    calls: list[str] = []
    pairs = speed.time_in_pairs(
        lambda: calls.append("a"), lambda: calls.append("b"), rounds=2, device=torch.device("cpu")
    )
    assert calls == ["a", "b"] * 3
    assert len(pairs) == 2
