"""Tests with shuffled and averaged frames: what a model gains from the order of the frames."""

import json
import shutil
import sys
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import Outcome, load_command
from tests.processes import Ranks
from timesformer.datasets.transforms.frame_order import reorder_frames, shuffled_frames

RunNet = Callable[..., Outcome]
FRAMES, SIDE = 4, 16
CORNERS = [(0, 0), (0, 1), (1, 1), (1, 0)]  # clockwise
OPTIONS = """
TRAIN: {DATASET: hmdb_simp, BATCH_SIZE: 8, EVAL_PERIOD: 40, CHECKPOINT_PERIOD: 40}
TEST: {DATASET: hmdb_simp, BATCH_SIZE: 4, NUM_ENSEMBLE_VIEWS: 2, NUM_SPATIAL_CROPS: 1, REPORT: False}
DATA: {NUM_FRAMES: 4, SAMPLING_RATE: 1, TRAIN_CROP_SIZE: 16, TEST_CROP_SIZE: 16, TRAIN_JITTER_SCALES: [16, 16],
  RANDOM_FLIP: False, SAMPLER: uniform}
DATA_LOADER: {NUM_WORKERS: 0}
MODEL: {NUM_CLASSES: 2}
TIMESFORMER: {EMBED_DIM: 16, DEPTH: 1, NUM_HEADS: 2, INIT: scratch, DROP_PATH_RATE: 0.0}
SOLVER: {OPTIMIZING_METHOD: adamw, BASE_LR: 0.001, MAX_EPOCH: 40}
TENSORBOARD: {ENABLE: False}
GLOBAL_BATCH_SIZE: 8
NUM_GPUS: 0
"""
MODELS = {
    "TimeSformer": [
        "MODEL.MODEL_NAME",
        "TimeSformer",
        "TIMESFORMER.ATTENTION_TYPE",
        "space_only",
        "TIMESFORMER.PATCH_SIZE",
        "8",
    ],
    "ViViT": ["MODEL.MODEL_NAME", "ViViT", "VIVIT.TUBELET_SIZE", "[4, 8, 8]"],
}


@pytest.fixture(scope="module")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of a bright quadrant that turns clockwise, or counterclockwise: single frames do not show the class."""
    root, random = tmp_path_factory.mktemp("motion"), np.random.default_rng(0)
    for split, clips in {"train": 4, "val": 2, "test": 8}.items():
        for label, step in (("clockwise", 1), ("counterclockwise", -1)):
            for number in range(clips):
                folder = root / split / label / f"{number}"
                folder.mkdir(parents=True)
                for frame in range(FRAMES):
                    row, column = CORNERS[step * frame % 4]
                    image = random.integers(0, 40, (SIDE, SIDE, 3), dtype=np.uint8)
                    image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 200
                    Image.fromarray(image).save(folder / f"{frame}.png")
    return root


@pytest.fixture
def command(motion: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "options.yaml").write_text(OPTIONS)
    return ["--cfg", str(tmp_path / "options.yaml"), "DATA.PATH_TO_DATA_DIR", str(motion)]


@pytest.fixture
def trained(command: list[str], run_net: RunNet, run_once: Callable[..., Path]) -> Callable[[str], Path]:
    """trained(model): a copy of OUTPUT_DIR after a training of `MODELS[model]`, and a test that measures order."""

    def run(model: str) -> Path:
        options = [*MODELS[model], "TEST.MEASURE_ORDER", "True", "TEST.REPORT", "True"]
        options += ["TEST.SAVE_RESULTS_PATH", "scores.npz", "OUTPUT_DIR"]
        return run_once(f"order_{model}", lambda output: run_net(*command, *options, str(output)))

    return run


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_space_only_model_predicts_the_same_with_shuffled_frames(trained: Callable[[str], Path]) -> None:
    output = trained("TimeSformer")
    found, scores = results(output), np.load(output / "scores.npz")
    assert found["shuffled"]["same_prediction"] == found["num_videos"] == 16
    assert found["shuffled"]["top1"] == found["top1"]
    assert (found["shuffled"]["difference"], found["shuffled"]["only_original"]) == (0, 0)
    np.testing.assert_allclose(scores["shuffled_scores"], scores["scores"], rtol=0, atol=1e-5)
    assert "does not use their order" in (output / "report.html").read_text()


@pytest.mark.slow
def test_model_that_uses_order_is_worse_with_shuffled_frames(trained: Callable[[str], Path]) -> None:
    output = trained("ViViT")
    found, scores = results(output), np.load(output / "scores.npz")
    shuffled, correct = found["shuffled"], scores["scores"].argmax(axis=1) == scores["labels"]
    correct_shuffled = scores["shuffled_scores"].argmax(axis=1) == scores["labels"]
    assert found["top1"] == 100
    assert shuffled["top1"] == 100 * correct_shuffled.mean() <= 75  # about half is chance
    assert shuffled["difference"] == found["top1"] - shuffled["top1"]
    assert shuffled["only_original"] == (correct & ~correct_shuffled).sum() > 0
    assert shuffled["only_shuffled"] == (correct_shuffled & ~correct).sum()
    assert shuffled["correct_by_class"] == [correct_shuffled[scores["labels"] == label].sum() for label in (0, 1)]
    page = (output / "report.html").read_text()
    assert 'id="frame-order"' in page
    assert f"{shuffled['top1']:.2f}" in page


@pytest.mark.slow
def test_order_depends_on_the_video_and_view_alone(
    trained: Callable[[str], Path], command: list[str], run_net: RunNet, ranks: Ranks, tmp_path: Path
) -> None:
    output = trained("ViViT")
    expected, tool = np.load(output / "scores.npz")["shuffled_scores"], load_command("train")
    alone = [
        *command,
        *MODELS["ViViT"],
        "TRAIN.ENABLE",
        "False",
        "TEST.FRAME_ORDER",
        "shuffled",
        "TEST.SAVE_RESULTS_PATH",
        "scores.npz",
    ]
    assert run_net(*alone, "OUTPUT_DIR", str(output), "DATA_LOADER.NUM_WORKERS", "1", "TEST.BATCH_SIZE", "3").code == 0
    assert results(output)["top1"] == 100  # the results of the ordinary test stay
    other = output / "test_2x1"
    assert results(other)["top1"] == results(output)["shuffled"]["top1"]
    assert results(other)["shuffled"] is None
    np.testing.assert_allclose(np.load(other / "scores.npz")["scores"], expected, rtol=0, atol=1e-5)
    best = ["TEST.CHECKPOINT_FILE_PATH", str(output / "checkpoints" / "best.pyth"), "OUTPUT_DIR", str(tmp_path / "two")]
    measured = [*alone[:-4], "TEST.MEASURE_ORDER", "True", *alone[-2:], *best]

    def work(rank: int) -> int:
        sys.argv = ["run_net.py", *measured]
        return tool.main()

    assert [ended.code for ended in ranks(2, work)] == [0, 0]
    np.testing.assert_allclose(np.load(tmp_path / "two/scores.npz")["shuffled_scores"], expected, rtol=0, atol=1e-5)
    assert results(tmp_path / "two")["shuffled"] == results(output)["shuffled"]


@pytest.mark.slow
def test_averaged_frames_and_unreadable_clips(
    trained: Callable[[str], Path], command: list[str], motion: Path, run_net: RunNet, tmp_path: Path
) -> None:
    """The frames of a clip are replaced by their mean as NumPy computes it, written as a clip of equal frames."""
    data = shutil.copytree(motion, tmp_path / "data")
    for folder in (data / "test").glob("*/*"):
        files = sorted(folder.iterdir())
        mean = np.rint(np.mean([np.asarray(Image.open(file)) for file in files], axis=0)).astype(np.uint8)
        for file in files:
            Image.fromarray(mean).save(file)
    broken = tmp_path / "broken"
    shutil.copytree(motion, broken)
    for file in (broken / "test" / "clockwise" / "3").iterdir():
        file.write_bytes(b"")
    best = str(trained("ViViT") / "checkpoints" / "best.pyth")
    test = [*command, *MODELS["ViViT"], "TRAIN.ENABLE", "False", "TEST.SAVE_RESULTS_PATH", "scores.npz"]
    test += ["TEST.CHECKPOINT_FILE_PATH", best]
    runs = {
        "averaged": ["TEST.FRAME_ORDER", "averaged"],
        "means": ["DATA.PATH_TO_DATA_DIR", str(data)],
        "broken": ["DATA.PATH_TO_DATA_DIR", str(broken), "TEST.MEASURE_ORDER", "True"],
    }
    for name, options in runs.items():
        assert run_net(*test, *options, "OUTPUT_DIR", str(tmp_path / name)).code == 0
    averaged, means = (np.load(tmp_path / name / "scores.npz")["scores"] for name in ("averaged", "means"))
    np.testing.assert_allclose(averaged, means, rtol=0, atol=1e-5)
    found = results(tmp_path / "broken")
    assert len(found["unreadable"]) == 1
    assert found["top1"] == pytest.approx(100 * 15 / 16)
    shuffled = found["shuffled"]
    assert sum(shuffled["correct_by_class"]) == 15 - shuffled["only_original"] == shuffled["same_prediction"]
    assert shuffled["top1"] == pytest.approx(100 * sum(shuffled["correct_by_class"]) / 16)


def test_one_frame_cannot_be_shuffled(command: list[str], run_net: RunNet) -> None:
    ended = run_net(*command, "TEST.FRAME_ORDER", "shuffled", "DATA.NUM_FRAMES", "1")
    assert ended.code != 0
    assert "TEST.FRAME_ORDER" in ended.err


def test_shuffled_frames_are_all_orders_but_the_original() -> None:
    found = {tuple(shuffled_frames(3, 1, video, view).tolist()) for video in range(20) for view in range(3)}
    assert found == {*permutations(range(3))} - {(0, 1, 2)}
    assert {tuple(shuffled_frames(2, 1, video, 0).tolist()) for video in range(20)} == {(1, 0)}


def test_clips_are_shuffled_independently_of_their_batch() -> None:
    clips = torch.randint(0, 256, (5, 3, 6, 2, 2), dtype=torch.uint8)
    videos, views = torch.tensor([4, 4, 0, 9, 1]), torch.tensor([0, 1, 0, 2, 1])
    found = reorder_frames(clips, "shuffled", 7, videos, views)
    for number, clip in enumerate(clips):
        numbers = shuffled_frames(6, 7, int(videos[number]), int(views[number]))
        assert torch.equal(found[number], clip[:, numbers])
    part = reorder_frames(clips[3:], "shuffled", 7, videos[3:], views[3:])
    assert torch.equal(part, found[3:])
    assert not torch.equal(reorder_frames(clips, "shuffled", 8, videos, views), found)
    assert reorder_frames(clips, "original", 7, videos, views) is clips


@pytest.mark.parametrize("frames", [1, 2, 6, 96])
def test_averaged_frames_are_rounded_as_by_numpy(frames: int) -> None:
    clips = torch.randint(0, 256, (2, 3, frames, 8, 8), dtype=torch.uint8)
    expected = np.rint(clips.numpy().mean(axis=2, keepdims=True)).astype(np.uint8)
    found = reorder_frames(clips, "averaged", 0, torch.zeros(2), torch.zeros(2))
    np.testing.assert_array_equal(found.numpy(), np.broadcast_to(expected, clips.shape))
