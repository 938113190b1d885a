"""Device, precision, and batches on the device."""

import runpy

import pytest
import torch
from fvcore.common.config import CfgNode
from torch.nn.functional import linear

import timesformer
from timesformer.config import get_cfg
from timesformer.errors import UserError
from timesformer.runtime.device import (
    MPS_FALLBACK,
    adapt_to_device,
    autocast,
    choose_device,
    clips_at_once,
    devices,
    prefetch_to_device,
    select_device,
)

BATCHES = [
    {"clip": torch.full((2, 3), number), "label": torch.tensor([number, 7]), "video": torch.tensor([number, -1])}
    for number in range(3)
]


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.NUM_GPUS = int(torch.cuda.is_available())
    return cfg


def test_batches_are_moved_in_order_and_only_when_needed(cfg: CfgNode) -> None:
    device, requested = choose_device(cfg), []
    batches = (requested.append(number) or batch for number, batch in enumerate(BATCHES))
    for number, batch in enumerate(prefetch_to_device(batches, device)):
        assert requested == list(range(number + 1))  # else a step would wait for the batch after its own
        assert batch["clip"].device.type == batch["present"].device.type == device.type
        assert batch["video"].device.type == "cpu"
        assert batch["clip"].tolist() == [[number] * 3] * 2
        assert (batch["label"].tolist(), batch["present"].tolist()) == ([number, 7], [True, False])
    assert number == 2


@pytest.mark.parametrize(("name", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_mixed_precision(cfg: CfgNode, name: str, dtype: torch.dtype) -> None:
    cfg.TRAIN.MIXED_PRECISION, device = name, choose_device(cfg)
    with autocast(cfg, device):
        assert linear(torch.ones(2, 2, device=device), torch.ones(2, 2, device=device)).dtype == dtype


def test_a_cpu_evaluates_few_pixels_at_once() -> None:
    large, small = torch.zeros(3, 3, 8, 224, 224), torch.zeros(20, 3, 8, 48, 48)
    assert [len(part) for part in clips_at_once(large)] == [1, 1, 1]
    assert torch.cat(list(clips_at_once(small))).shape == small.shape
    assert len(clips_at_once(small)) == 1


def test_devices_are_those_that_pytorch_can_use() -> None:
    assert select_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cpu", "cuda:0", "mps"):
        if name in devices():
            assert select_device(name) == torch.device(name)
        else:
            with pytest.raises(UserError, match=f"{name}.*{devices()[0]}"):
                select_device(name)
    for name in ("mps", "meta", "hpu", "vulkan", "cpux"):
        if name not in devices():
            with pytest.raises(UserError, match=f"device {name} .* expected one of {', '.join(devices())}") as caught:
                select_device(name)
            assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("cuda", "fp16", ("fp16", 1)),
        ("cuda", "bf16", ("bf16", 1)),
        ("cpu", "bf16", ("bf16", 0)),
        ("cpu", "fp16", ("off", 0)),
        ("mps", "bf16", ("off", 0)),
        ("mps", "fp16", ("off", 0)),
        ("mps", "off", ("off", 0)),
    ],
)
def test_precision_of_a_trained_model_on_a_device(
    device: str, precision: str, expected: tuple[str, int], cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MPS_FALLBACK, "1")
    cfg.TRAIN.MIXED_PRECISION = precision
    notes = adapt_to_device(cfg, torch.device(device))
    assert expected == (cfg.TRAIN.MIXED_PRECISION, cfg.NUM_GPUS)
    assert [precision in note for note in notes] == [True] * (precision != expected[0])


def test_mps_falls_back_to_the_cpu_if_the_package_is_imported_before_pytorch(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MPS_FALLBACK, raising=False)
    assert [MPS_FALLBACK in note for note in adapt_to_device(cfg, torch.device("mps"))] == [True]
    monkeypatch.setattr("sys.platform", "darwin")
    runpy.run_path(timesformer.__file__)
    assert adapt_to_device(cfg, torch.device("mps")) == []
