"""Training and testing on filmed clips (docs/real_clips.md)."""

from pathlib import Path

import pytest
import simplejson
from fvcore.common.config import CfgNode
from PIL import Image

from timesformer.config import load_config
from timesformer.datasets.decoding.open import open_video
from timesformer.engine.evaluate import test as run_test
from timesformer.engine.trainer import train

SHIPPED = Path(__file__).parents[1] / "configs/HMDB/TimeSformer_divST_scratch_small.yaml"
CLIPS_OF_A_CLASS = {"train": 2, "val": 1, "test": 1}


def clips_of(shared: Path, name: str) -> Path:
    """A folder with a folder of clips per class."""
    folder = shared / "videos" / name
    if not folder.is_dir():
        pytest.skip(f"no reference clips at {folder}")
    return folder


def write_splits(clips: Path, folder: Path) -> list[Path]:
    """Writes train.csv, val.csv and test.csv of the first clips of every class; returns the clips."""
    folder.mkdir()
    listed, taken = [], 0
    for split, number in CLIPS_OF_A_CLASS.items():
        chosen = [path for label in sorted(clips.iterdir()) for path in sorted(label.iterdir())[taken : taken + number]]
        rows = [f"{path.parent.name},{path.stem}\n" for path in chosen]
        (folder / f"{split}.csv").write_text("".join(["class,video_name\n", *rows]))
        listed += chosen
        taken += number
    return listed


def configure(clips: Path, splits: Path, output: Path, *overrides: str | int) -> CfgNode:
    """The shipped small model, made smaller, for one epoch."""
    options = {
        "DATA.PATH_TO_DATA_DIR": clips,
        "DATA.SPLITS_DIR": splits,
        "OUTPUT_DIR": output,
        "TRAIN.BATCH_SIZE": 3,
        "GLOBAL_BATCH_SIZE": 3,
        "SOLVER.MAX_EPOCH": 1,
        "SOLVER.WARMUP_EPOCHS": 0.0,
        "TIMESFORMER.EMBED_DIM": 48,
        "TIMESFORMER.DEPTH": 2,
        "DATA_LOADER.NUM_WORKERS": 0,
        "TENSORBOARD.ENABLE": False,
    }
    given = [str(part) for item in options.items() for part in item]
    return load_config(SHIPPED, [*given, *map(str, overrides)])


def run(cfg: CfgNode) -> dict:
    """Trains, validates and tests; returns results.json."""
    train(cfg)
    return simplejson.loads(run_test(cfg).read_text())


def training_losses(cfg: CfgNode) -> list[float]:
    lines = map(simplejson.loads, (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "train_epoch"]


@pytest.mark.parametrize(
    ("name", "classes", "rate"),
    [
        ("hosszu_actions", ["boxing", "handclapping", "handwaving"], 8),
        ("basketball_action", ["defense", "dribbling", "nothing", "passing", "shooting"], 2),
    ],
)
def test_video_files_and_folders_of_frames_give_the_same_result(
    shared: Path, tmp_path: Path, name: str, classes: list[str], rate: int
) -> None:
    clips, frames = clips_of(shared, name), tmp_path / "frames"
    for path in write_splits(clips, tmp_path / "splits"):
        folder = frames / path.parent.name / path.stem
        folder.mkdir(parents=True)
        with open_video(path) as video:
            for number, frame in enumerate(video.read(range(video.num_frames))):
                Image.fromarray(frame).save(folder / f"{number}.png", compress_level=0)  # no loss, unlike JPEG
    overrides = ["MODEL.NUM_CLASSES", len(classes), "DATA.SAMPLING_RATE", rate]
    of_files = configure(clips, tmp_path / "splits", tmp_path / "files_out", *overrides)
    of_frames = configure(frames, tmp_path / "splits", tmp_path / "frames_out", *overrides)
    results, again = run(of_files), run(of_frames)
    assert (results["num_videos"], results["class_names"], results["unreadable"]) == (len(classes), classes, [])
    assert (again["top1"], again["loss"]) == (results["top1"], results["loss"])
    assert training_losses(of_frames) == training_losses(of_files)
    assert (tmp_path / "frames_out/predictions.csv").read_text() == (tmp_path / "files_out/predictions.csv").read_text()


def test_small_model_overfits_a_few_clips(shared: Path, tmp_path: Path) -> None:
    clips = clips_of(shared, "hosszu_actions")
    write_splits(clips, tmp_path / "splits")
    overrides = ["MODEL.NUM_CLASSES", 3, "SOLVER.MAX_EPOCH", 20, "TRAIN.EVAL_PERIOD", 20]
    always_the_same = ["DATA.RANDOM_FLIP", False, "DATA.SAMPLER_START", "first"]
    cfg = configure(clips, tmp_path / "splits", tmp_path / "out", *overrides, *always_the_same)
    train(cfg)
    losses = training_losses(cfg)
    assert losses[-1] < losses[0] / 4
