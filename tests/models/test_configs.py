"""The models of the shipped configurations, and the counts that docs/models.md prints."""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from timesformer.config import load_config
from timesformer.models import build_model
from timesformer.models.baselines import TorchvisionModel
from timesformer.models.complexity import count_multiply_adds, count_parameters
from timesformer.models.vit import TimeSformer
from timesformer.models.vivit import ViViT

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(path for path in CONFIGS.glob("**/*.yaml") if path.parent.name != "studies")


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_shipped_configuration(path: Path) -> None:
    cfg = load_config(path, ["TIMESFORMER.PRETRAINED_MODEL", ""], check_values=False)
    with torch.device("meta"):
        model = build_model(cfg).eval()
        clip = torch.empty(2, 3, cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE)
    assert model(clip).shape == (2, cfg.MODEL.NUM_CLASSES)


def test_the_page_has_every_shipped_configuration() -> None:
    """With the parameters and multiply-adds of configs/costs.csv, which a test in tests/config counts again."""
    page = (CONFIGS.parent / "docs/models.md").read_text(encoding="utf-8")
    table = page.split("<!-- table: begin -->")[1].split("<!-- table: end -->")[0].splitlines()[3:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    with (CONFIGS / "costs.csv").open(newline="") as file:
        costs = {f"configs/{row['configuration']}.yaml": row for row in csv.DictReader(file)}
    assert {name for name, *_ in rows} == {path.relative_to(CONFIGS.parent).as_posix() for path in SHIPPED}
    for name, *_, millions, billions in rows:
        counted = (int(costs[name]["parameters"]) / 1e6, int(costs[name]["multiply_adds"]) / 1e9)
        assert (float(millions), float(billions)) == pytest.approx(counted, abs=0.0051), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_class", "options", "clip", "millions", "cost"),
    [
        (TimeSformer, {"num_classes": 51}, (8, 224, 224), 121.3, 196.05),  # TimeSformer paper, gesture study's table
        (ViViT, {"attention_type": "joint"}, (32, 224, 224), 88.95, 451.81),  # ViViT paper, section 4.2
        (ViViT, {"attention_type": "factorised_encoder"}, (32, 224, 224), 115.06, 283.63),
        (ViViT, {"attention_type": "factorised_self_attention"}, (32, 224, 224), 117.32, 371.54),
        (TorchvisionModel, {"name": "r3d_18", "num_classes": 400}, (16, 112, 112), 33.37, 40.697),  # torchvision
    ],
)
def test_published_size_and_cost(
    model_class: type[nn.Module], options: dict, clip: tuple[int, int, int], millions: float, cost: float
) -> None:
    with torch.device("meta"):
        model = model_class(**options)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.05)
    assert count_multiply_adds(model, (1, 3, *clip)) / 1e9 == pytest.approx(cost, abs=0.05)
    assert model.training
