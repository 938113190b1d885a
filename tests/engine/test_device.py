"""Bringing batches to where they are computed, and the precision there."""

import pytest
import torch
from fvcore.common.config import CfgNode

from timesformer.config import get_cfg
from timesformer.runtime.device import autocast, choose_device, prefetch_to_device, set_float32_precision

BATCHES = [
    {"clip": torch.full((2, 3), number), "label": torch.tensor([number, 7]), "video": torch.tensor([number, -1])}
    for number in range(3)
]


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.NUM_GPUS = int(torch.cuda.is_available())
    return cfg


def test_batches_come_to_the_device_in_order_and_say_which_clips_are_there(cfg: CfgNode) -> None:
    device = choose_device(cfg)
    for number, batch in enumerate(prefetch_to_device(iter(BATCHES), device)):
        assert batch["clip"].device.type == batch["present"].device.type == device.type
        assert batch["video"].device.type == "cpu"
        assert batch["clip"].tolist() == [[number] * 3] * 2
        assert batch["label"].tolist() == [number, 7]
        assert batch["present"].tolist() == [True, False]
    assert number == 2


def test_no_batch_is_asked_for_before_the_one_ahead_of_it_was_taken(cfg: CfgNode) -> None:
    asked = []
    batches = prefetch_to_device(
        (asked.append(index) or batch for index, batch in enumerate(BATCHES)), choose_device(cfg)
    )
    next(batches)
    assert asked == [0]  # else the step of a batch that is there would wait for the next


@pytest.mark.parametrize(("name", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_mixed_precision_is_that_of_matrix_products(cfg: CfgNode, name: str, dtype: torch.dtype) -> None:
    cfg.TRAIN.MIXED_PRECISION, device = name, choose_device(cfg)
    with autocast(cfg, device):
        assert (
            torch.nn.functional.linear(torch.ones(2, 2, device=device), torch.ones(2, 2, device=device)).dtype == dtype
        )


def test_float32_on_the_cpu_stays_float32(cfg: CfgNode) -> None:
    cfg.NUM_GPUS = 0
    before = torch.get_float32_matmul_precision()
    set_float32_precision(cfg)
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("tf32", "precision"), [(True, "high"), (False, "highest")])
def test_float32_on_a_gpu_is_as_configured(cfg: CfgNode, tf32: bool, precision: str) -> None:
    cfg.TRAIN.TF32 = tf32
    set_float32_precision(cfg)
    assert torch.get_float32_matmul_precision() == precision
    assert torch.backends.cudnn.allow_tf32 is tf32
