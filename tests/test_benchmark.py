"""The benchmark: what it compares is equal, and its tables hold what was measured."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from timesformer.errors import UserError
from tools import benchmark

ROOT = Path(__file__).resolve().parents[1]
needs_peer = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="the peer, Hugging Face transformers, is not installed"
)
SMALL = str(ROOT / "configs/Demo/TimeSformer_divST_8x2_48.yaml")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["benchmark.py", *arguments])
    return benchmark.main()


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@needs_peer
@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time"])
@pytest.mark.parametrize("step", ["eval", "train"])
def test_logits_equal_those_of_hugging_face(attention_type: str, step: str) -> None:
    ours, theirs = benchmark.model_pair(attention_type, 4, 64, torch.device("cpu"), width=48, depth=3, heads=4)
    clip = torch.randn(2, 3, 4, 64, 64)
    for model in (ours, theirs):
        model.train(step == "train")
    torch.testing.assert_close(benchmark.logits_of(ours, clip), benchmark.logits_of(theirs, clip), rtol=0, atol=1e-5)


def test_pairs_are_timed_in_turn_after_a_warm_up() -> None:
    calls: list[str] = []
    pairs = benchmark.time_in_pairs(
        lambda: calls.append("a"), lambda: calls.append("b"), rounds=2, device=torch.device("cpu")
    )
    assert calls == ["a", "b"] * 3
    assert len(pairs) == 2


def test_the_table_of_models_has_size_and_operations(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "models", "--cfg", SMALL) == 0
    _, _, row = capsys.readouterr().out.splitlines()
    assert cells_of(row) == [SMALL, "TimeSformer", "divided_space_time", "8x2, 48", "8", "0.71", "0.05"]


def test_time_and_memory_are_added_and_written_between_the_markers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{benchmark.TABLE_BEGIN}\nold\n{benchmark.TABLE_END}\nafter\n")
    measured = ["--time", "--cpu", "--threads", "1", "--rounds", "1", "--batch-size", "2"]
    assert run(monkeypatch, "models", "--cfg", SMALL, "--markdown", str(page), *measured) == 0
    how, _, head, _, row = capsys.readouterr().out.splitlines()
    assert re.search(r"1 threads, torch .*; clips at once: 2, float32, median of 1; .* of the whole process", how)
    assert cells_of(head)[-3:] == ["forward (ms/clip)", "training step (ms/clip)", "peak memory (GB)"]
    forward, step, memory = map(float, cells_of(row)[-3:])
    assert 0 < forward < step
    assert 0.1 < memory < 2  # PyTorch itself, and next to nothing for this model; not what this process holds
    assert page.read_text() == f"before\n{benchmark.TABLE_BEGIN}\n{how}\n\n" + "\n".join(
        [head, "|---|---|---|---|---:|---:|---:|---:|---:|---:|", row, f"{benchmark.TABLE_END}\nafter\n"]
    )


def test_a_page_without_a_place_for_the_table_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("no markers")
    assert run(monkeypatch, "models", "--cfg", SMALL, "--markdown", str(page)) == 2
    assert f"{page} has no place for the table" in capsys.readouterr().err


def test_a_process_that_dies_while_measuring_is_an_error_that_names_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Dies:
        def __init__(self, *args: object, **options: object) -> None:
            pass

        def __enter__(self) -> "Dies":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def submit(self, *args: object) -> None:
            raise benchmark.BrokenProcessPool

    monkeypatch.setattr(benchmark, "ProcessPoolExecutor", Dies)
    with pytest.raises(UserError, match=r"a.yaml could not be measured: .*lower --batch-size, which is 4"):
        benchmark.measure_apart("a.yaml", None, torch.device("cpu"), 4, 1, 0)
