"""Contenders compute the same before they are timed, and the tables hold what was measured of each."""

import importlib.util
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from timesformer.errors import UserError
from tools.benchmark import training
from tools.benchmark.steps import logits_of
from tools.benchmark.training import HUGGING_FACE, ORIGINAL, OURS, Contender, Size

pytestmark = pytest.mark.numerical
TINY = Size(batch_size=2, frames=4, crop=32, width=32, depth=2, heads=2)
CPU = torch.device("cpu")

needs_peer = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="the peer, Hugging Face transformers, is not installed"
)


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@needs_peer
def test_the_originals_way_gives_the_logits_and_gradients_of_this_project() -> None:
    models, clip = training.build(TINY, CPU), training.clip_of(TINY, CPU)
    outcomes = {}
    for who, model in models.items():
        logits = logits_of(model.double().train(), clip.double())
        logits.square().sum().backward()
        outcomes[who] = logits, next(p.grad for name, p in model.named_parameters() if "time_embed" in name)
    for logits, gradient in (outcomes[ORIGINAL], outcomes[HUGGING_FACE]):
        torch.testing.assert_close(logits, outcomes[OURS][0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(gradient.view(4, 32), outcomes[OURS][1].view(4, 32), rtol=1e-9, atol=1e-12)
    weights = [p for model in models.values() for p in model.parameters()]
    assert len({id(weight) for weight in weights}) == len(weights)  # or a training step of one would move the others


@needs_peer
def test_operations_are_those_of_every_matrix_product_that_a_model_does() -> None:
    models, clip = training.build(TINY, CPU), training.clip_of(TINY, CPU)
    clips, frames, places, dim = 2, 4, 4, 32
    tokens, sequences = clips * frames * places, clips * frames
    temporal = tokens * (3 + 1 + 1) * dim**2 + 2 * tokens * frames * dim
    spatial = sequences * (places + 1) * (4 * dim**2 + 2 * (places + 1) * dim)
    mlp = (tokens + clips) * 8 * dim**2
    whole = 2 * (temporal + spatial + mlp) + tokens * 3 * 16**2 * dim + clips * dim * 400
    for who in (ORIGINAL, HUGGING_FACE):
        assert training.operations_of(models[who], clip, training=True) == 3 * 2 * whole
    # Of the last block, this project computes the class token alone.
    saved = (tokens * 8 * dim**2) + sequences * (places * 2 * dim**2 + 2 * places * (places + 1) * dim)
    assert training.operations_of(models[OURS], clip, training=True) == 3 * 2 * (whole - saved)


@needs_peer
def test_the_tables_have_a_row_for_each_contender_with_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "peak_of", lambda precision, device: 1e9)
    rows = training.contenders(["fp32", "bf16"], compiled=False, recompute="every_2")
    lines = list(training.training_table(TINY, rows, rounds=1))
    figures = {cells_of(line)[0]: cells_of(line)[1:] for line in lines if line.count("|") == 8}
    assert [str(row) for row in rows] == [
        "the original's way, fp32",
        "Hugging Face, fp32",
        "Hugging Face, bf16",
        "this project, fp32",
        "this project, fp32, recomputing every_2",
        "this project, bf16",
        "this project, bf16, recomputing every_2",
    ]
    assert {"training step", "inference", *map(str, rows)} <= figures.keys()
    assert figures["the original's way, fp32"][2] == "1.00 (1.00 to 1.00)"
    assert figures["Hugging Face, bf16"][3] == "1.00 (1.00 to 1.00)"
    for row in rows:
        seconds, clips, *_, memory, utilisation = figures[str(row)]
        assert float(seconds) > 0
        assert float(clips) > 0
        assert (memory, utilisation[-2:]) == ("-", " %")


@needs_peer
def test_a_precision_alone_leaves_the_original_s_way_without_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "peak_of", lambda precision, device: 1e9)
    rows = training.contenders(["bf16"], compiled=False, recompute="none")
    figures = {cells_of(line)[0]: cells_of(line) for line in training.training_table(TINY, rows, rounds=1)}
    assert figures["the original's way, fp32"][4] == "-"
    assert figures["this project, bf16"][4] != "-"


@needs_peer
def test_models_that_do_not_compute_the_same_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    build = training.build

    def spoil(size: Size, device: torch.device) -> dict[str, torch.nn.Module]:
        models = build(size, device)
        torch.nn.init.normal_(models[HUGGING_FACE].classifier.weight)
        return models

    monkeypatch.setattr(training, "build", spoil)
    with pytest.raises(UserError, match="do not compute the same"):
        next(training.training_table(TINY, [Contender(ORIGINAL)], rounds=1))


def test_a_contender_that_is_short_of_memory_has_no_figures_and_the_others_go_on() -> None:
    def lacks() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert [len(times) for times in training.in_turn([lacks, lambda: None], 3, CPU)] == [0, 3]
    assert (training.cell([]), training.ratio([1.0], []), training.utilisation(1, [], 1.0)) == (
        "out of memory",
        "-",
        "-",
    )
    assert training.ratio([4.0, 9.0, 2.0], [2.0, 3.0, 2.0]) == "2.00 (1.00 to 3.00)"


@needs_peer
def test_training_on_files_tells_the_share_of_time_spent_waiting(tiny_clips: dict[str, Path], tmp_path: Path) -> None:
    *_, line = training.data_lines(TINY, list(tiny_clips.values())[:2], tmp_path / "set", 0, 2, "fp32")
    match = re.search(r"with 0 loading processes: ([\d.]+) clips/s over 2 steps, ([\d.]+) % of the time waiting", line)
    assert float(match[1]) > 0
    assert 0 < float(match[2]) < 100


@needs_peer
def test_large_models_are_measured_with_activations_kept_and_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    def pool(workers: int, mp_context: object) -> ThreadPoolExecutor:  # spares the test the start of a process
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(training, "ProcessPoolExecutor", pool)
    lines = training.large_table([TINY], ("none", "blocks"), rounds=1)
    rows = [cells_of(line) for line in lines if "2 x 4 frames" in line]
    assert [row[1] for row in rows] == ["kept", "recomputed, blocks"]
    for _, _, seconds, clips, memory in rows:
        assert min(float(seconds), float(clips), float(memory)) > 0
