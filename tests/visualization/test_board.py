"""Charts of a test in TensorBoard, as the options select them."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from timesformer.config import load_config
from timesformer.visualization import report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tested(tiny_command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """tested(*options): what TensorBoard finds after training and the test of one epoch; trained once."""
    from timesformer.engine.evaluate import test
    from timesformer.engine.train import train

    output = tmp_path_factory.mktemp("board")
    command = [*tiny_command[2:], "OUTPUT_DIR", str(output), "SOLVER.MAX_EPOCH", "1"]
    cfg = load_config(tiny_command[1], command)
    train(cfg)
    test(cfg)
    number = iter(range(100))

    def run(*options: str) -> EventAccumulator:
        folder = f"board{next(number)}"
        cfg = load_config(tiny_command[1], [*command, "TENSORBOARD.LOG_DIR", folder, *options])
        report.report_after_test(cfg, output)
        found = EventAccumulator(str(output / folder), size_guidance={"images": 0})
        if (output / folder).exists():
            found.Reload()
        found.folder, found.output = output / folder, output
        return found

    return run


@pytest.fixture(autouse=True)
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "write_report", lambda folders, path: path)


def tags(board: EventAccumulator, beginning: str) -> list[str]:
    return sorted(tag for tag in board.Tags()["images"] if tag.startswith(beginning))


def test_default_charts(tested: Callable[..., Any]) -> None:
    board = tested()
    results = json.loads((board.output / "results.json").read_text())
    (top1,) = board.Scalars("test/top1")
    assert (top1.step, round(top1.value, 3)) == (1, round(results["top1"], 3))
    size = {tag: (board.Images(tag)[0].width, board.Images(tag)[0].height) for tag in ("per_class", "confusion_matrix")}
    assert size["confusion_matrix"] == (800, 800)
    wrong = results["num_videos"] - sum(row["correct"] for row in results["per_class"])
    mistakes = tags(board, "Incorrectly classified videos./")
    assert len(mistakes) == wrong > 0
    picture = Image.open(io.BytesIO(board.Images(mistakes[0])[0].encoded_image_string))
    assert (picture.format, picture.size, picture.n_frames) == ("GIF", (16, 16), 2)
    assert not board.Tags()["histograms"]
    assert not tested("TENSORBOARD.ENABLE", "False").folder.exists()


def test_options_select_charts_and_classes(tested: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "subset.txt").write_text("walk\r\n\r\nwave\r\n", encoding="utf-16")
    (tmp_path / "groups.json").write_text('{"legs": ["walk"], "arms": ["catch", "wave"]}', encoding="utf-8-sig")
    subset = str(tmp_path / "subset.txt")
    board = tested(
        *("TENSORBOARD.CONFUSION_MATRIX.FIGSIZE", "[3, 4]"),
        *("TENSORBOARD.CATEGORIES_PATH", str(tmp_path / "groups.json")),
        *("TENSORBOARD.HISTOGRAM.ENABLE", "True", "TENSORBOARD.HISTOGRAM.SUBSET_PATH", subset),
        *("TENSORBOARD.WRONG_PRED_VIS.SUBSET_PATH", subset, "TENSORBOARD.WRONG_PRED_VIS.TAG", "missed"),
        *("TENSORBOARD.MODEL_VIS.ENABLE", "True", "TENSORBOARD.MODEL_VIS.MODEL_WEIGHTS", "True"),
        *("TENSORBOARD.MODEL_VIS.INPUT_VIDEO", "True", "TENSORBOARD.MODEL_VIS.TOPK_PREDS", "2"),
        *("TENSORBOARD.EMBEDDINGS", "4"),
    )
    assert tags(board, "confusion_matrix") == ["confusion_matrix", "confusion_matrix/arms", "confusion_matrix/legs"]
    assert (board.Images("confusion_matrix")[0].width, board.Images("confusion_matrix")[0].height) == (300, 400)
    assert tags(board, "predicted_as") == ["predicted_as/walk", "predicted_as/wave"]
    assert not [tag for tag in tags(board, "missed/") if tag.startswith("missed/catch")]
    shown = tags(board, "missed/") + tags(board, "Input videos/")
    assert len(shown) == 6
    assert all(tag.count(" %") == 2 for tag in shown)
    assert any("head.weight" in tag for tag in board.Tags()["histograms"])
    table = (board.folder / "00001" / "test_videos" / "metadata.tsv").read_text().splitlines()
    assert table[0].split("\t") == ["video", "class", "prediction"]
    assert len(table) == 5
