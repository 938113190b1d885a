"""Contenders compute the same; times, operations and checkpoints are measured."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from timesformer.benchmarks import models, training
from timesformer.benchmarks.models import checkpoint_table
from timesformer.benchmarks.timing import CPU, time_in_turn
from timesformer.benchmarks.training import HUGGING_FACE, ORIGINAL, OURS, Size, build_models, logits_of, random_clip
from timesformer.config import get_cfg
from timesformer.errors import UserError

pytestmark = pytest.mark.numerical
TINY = Size(batch_size=2, frames=4, crop=32, width=32, depth=2, heads=2)


def needs_transformers(test: Callable) -> Callable:
    """Skips a test without Hugging Face transformers, whose import takes seconds."""
    missing = importlib.util.find_spec("transformers") is None
    return pytest.mark.slow(pytest.mark.skipif(missing, reason="transformers is not installed")(test))


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@needs_transformers
@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time"])
@pytest.mark.parametrize("train", [True, False])
def test_contenders_have_the_same_logits_and_gradients(attention_type: str, train: bool) -> None:
    size = TINY._replace(attention_type=attention_type)
    models, clip = build_models(size, CPU), random_clip(size, CPU)
    results = {}
    for name, model in models.items():
        logits = logits_of(model.double().train(train), clip.double())
        logits.square().sum().backward()
        gradient = next(p.grad for key, p in model.named_parameters() if "time_embed" in key)
        results[name] = logits, gradient.view(4, 32)
    assert (ORIGINAL in models) == (attention_type == "divided_space_time")
    for result in results.values():
        torch.testing.assert_close(result, results[OURS], rtol=1e-9, atol=1e-12)
    weights = [parameter for model in models.values() for parameter in model.parameters()]
    assert len({id(weight) for weight in weights}) == len(weights)  # no model changes another one's weights


@needs_transformers
def test_operations_are_those_of_all_matrix_products() -> None:
    models, clip = build_models(TINY, CPU), random_clip(TINY, CPU)
    clips, frames, patches, dim = 2, 4, 4, 32
    tokens, sequences = clips * frames * patches, clips * frames
    temporal = tokens * (3 + 1 + 1) * dim**2 + 2 * tokens * frames * dim
    spatial = sequences * (patches + 1) * (4 * dim**2 + 2 * (patches + 1) * dim)
    mlp = (tokens + clips) * 8 * dim**2
    whole = 2 * (temporal + spatial + mlp) + tokens * 3 * 16**2 * dim + clips * dim * 400
    for name in (ORIGINAL, HUGGING_FACE):
        assert training.count_operations(models[name], clip, training=True) == 2 * whole
    # This project computes the class token alone in the last block.
    saved = (tokens * 8 * dim**2) + sequences * (patches * 2 * dim**2 + 2 * patches * (patches + 1) * dim)
    assert training.count_operations(models[OURS], clip, training=True) == 2 * (whole - saved)


@needs_transformers
@pytest.mark.parametrize(
    ("precisions", "rows"),
    [
        (
            ["fp32", "bf16"],
            ["Hugging Face, fp32", "Hugging Face, bf16"]
            + [f"this project, {kind}" for kind in ("fp32", "fp32, recomputing every_2")]
            + [f"this project, {kind}" for kind in ("bf16", "bf16, recomputing every_2")],
        ),
        (["bf16"], ["Hugging Face, bf16", "this project, bf16", "this project, bf16, recomputing every_2"]),
    ],
)
def test_tables_have_a_row_for_each_contender(
    monkeypatch: pytest.MonkeyPatch, precisions: list[str], rows: list[str]
) -> None:
    monkeypatch.setattr(training, "matmul_peak", lambda precision, device: 1e9)
    contenders = training.contenders(precisions, False, "every_2", "divided_space_time")
    lines = list(training.training_table(TINY, contenders, rounds=1, threads=0, memory=False))
    cells = {cells_of(line)[0]: cells_of(line)[1:] for line in lines if line.count("|") == 8}
    names = ["the original's way, fp32", *rows]
    assert [name for name in cells if name in names] == [str(one) for one in contenders] == names
    assert {"training step", "inference"} <= cells.keys()
    assert cells[names[0]][2] == cells["Hugging Face, bf16"][3] == "1.00 (1.00 to 1.00)"
    assert (cells[names[0]][3] == "-") == ("fp32" not in precisions)
    for name in names:
        seconds, clips, *_, memory, utilisation = cells[name]
        assert float(seconds) >= 0  # a fast processor takes less than half a millisecond
        assert float(clips) > 0
        assert (memory, utilisation[-2:]) == ("-", " %")


@needs_transformers
def test_models_that_compute_something_else_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(size: Size, device: torch.device) -> dict[str, torch.nn.Module]:
        models = build_models(size, device)
        torch.nn.init.normal_(models[HUGGING_FACE].classifier.weight)
        return models

    monkeypatch.setattr(training, "build_models", build)
    with pytest.raises(UserError):
        next(training.training_table(TINY, [], rounds=1, threads=0, memory=False))


def test_runs_are_timed_in_turn_after_a_warm_up() -> None:
    calls: list[str] = []

    def run_out_of_memory() -> None:
        raise torch.OutOfMemoryError

    runs = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b"), "c": run_out_of_memory}
    seconds = time_in_turn(runs, rounds=7)
    assert [set(calls[start : start + 2]) for start in range(0, len(calls), 2)] == [{"a", "b"}] * 8
    assert {key: len(times) for key, times in seconds.items()} == {"a": 7, "b": 7, "c": 0}
    assert training.format_speedup([4.0, 9.0, 2.0], [2.0, 3.0, 2.0]) == "2.00 (1.00 to 3.00)"


@needs_transformers
def test_training_on_files_reports_the_time_spent_waiting(tiny_clips: dict[str, Path], tmp_path: Path) -> None:
    *_, line = training.data_lines(TINY, tiny_clips["MPEG-4"], tmp_path / "set", 0, 2, "fp32")
    match = re.search(r"([\d.]+) clips/s over 2 steps, ([\d.]+) %", line)
    assert float(match[1]) > 0
    assert 0 < float(match[2]) < 100


def test_checkpoint_table_has_a_row_for_each_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.TIMESFORMER.EMBED_DIM, cfg.TIMESFORMER.DEPTH, cfg.TIMESFORMER.NUM_HEADS = 64, 1, 2
    given = {True: 1.0, False: 2.0, "check": 3.0, "load": 4.0, "": 5.0}  # True and False: with checksums, and without
    monkeypatch.setattr(
        models, "time_in_turn", lambda runs, *_, **__: {key: [runs[key]() and given[key]] for key in runs}
    )
    rows = [cells_of(line) for line in checkpoint_table(cfg, rounds=1)][4:]
    sgd, adamw, averaged = (float(row[1]) for row in rows)
    assert adamw / sgd > 1.3  # three times the model's size instead of two, ...
    assert averaged / sgd > 1.7  # ... and four times
    assert all(row[2:] == ["1.00 s", "2.00 s", "3.00 s", "4.00 s", "5.00 s"] for row in rows)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
