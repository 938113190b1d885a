"""Writes configs/costs.csv, which `timesformer configs` shows: python -m timesformer.benchmarks.config_costs."""

import csv
import io
from collections.abc import Sequence

import torch

from timesformer.atomic import write_text_atomically
from timesformer.config import load_config
from timesformer.config.shipped import COSTS, shipped_folder, shipped_names
from timesformer.models import build_model
from timesformer.models.complexity import count_multiply_adds, count_parameters

COLUMNS = ("configuration", "model", "attention", "frames", "crop", "parameters", "multiply_adds")


def describe_cost(name: str, with_operations: bool = True) -> dict[str, str]:
    """A row of the file: frames are NUM_FRAMES x SAMPLING_RATE; multiply-adds of one view."""
    cfg = load_config(name, check_values=False)
    with torch.device("meta"):
        model = build_model(cfg, fresh=True)
    frames, crop = cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE
    operations = count_multiply_adds(model, (1, 3, frames, crop, crop)) if with_operations else 0
    attention = getattr(getattr(model, "model", model), "attention_type", "-")
    cells = (name, cfg.MODEL.MODEL_NAME, attention, f"{frames}x{cfg.DATA.SAMPLING_RATE}", crop)
    return dict(zip(COLUMNS, map(str, (*cells, count_parameters(model), operations)), strict=True))


def cost_table(names: Sequence[str]) -> str:
    """The content of the file."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(describe_cost, names))
    return file.getvalue()


if __name__ == "__main__":
    write_text_atomically(shipped_folder() / COSTS, cost_table(shipped_names()))
