"""The main job on a few reference clips: what holds for made-up clips holds for filmed ones (docs/real_clips.md)."""

from pathlib import Path

import pytest
import simplejson
from fvcore.common.config import CfgNode
from PIL import Image

from timesformer.config import load_config
from timesformer.datasets.clips import ClipDataset
from timesformer.datasets.decoding.open import open_video
from timesformer.engine.evaluate import test as run_test
from timesformer.engine.trainer import train

SHIPPED = Path(__file__).parents[1] / "configs/HMDB/TimeSformer_divST_scratch_small.yaml"
CLIPS_OF_A_CLASS = {"train": 2, "val": 1, "test": 1}


def clips_of(shared: Path, name: str) -> Path:
    """Folder of one folder of clips per class; skips where it is absent."""
    folder = shared / "videos" / name
    if not folder.is_dir():
        pytest.skip(f"no reference clips at {folder}")
    return folder


def write_splits(clips: Path, folder: Path) -> list[Path]:
    """Lists the first clips of every class in train.csv, val.csv and test.csv in `folder`; returns the clips."""
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
    """The shipped small model, made smaller, for one epoch unless `overrides` say more."""
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


def number_of_frames(path: Path) -> int:
    with open_video(path) as video:
        return video.num_frames


def run(cfg: CfgNode) -> dict:
    """Trains, validates and tests; returns what results.json says."""
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
def test_filmed_clips_give_the_same_result_as_video_files_and_as_folders_of_frames(
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


def test_a_small_model_learns_a_handful_of_filmed_clips_by_heart(shared: Path, tmp_path: Path) -> None:
    clips = clips_of(shared, "hosszu_actions")
    write_splits(clips, tmp_path / "splits")
    overrides = ["MODEL.NUM_CLASSES", 3, "SOLVER.MAX_EPOCH", 20, "TRAIN.EVAL_PERIOD", 20]
    always_the_same = ["DATA.RANDOM_FLIP", False, "DATA.SAMPLER_START", "first"]
    cfg = configure(clips, tmp_path / "splits", tmp_path / "out", *overrides, *always_the_same)
    train(cfg)
    losses = training_losses(cfg)
    assert losses[-1] < losses[0] / 4


def test_a_filmed_clip_of_five_frames_plays_forwards_then_backwards(shared: Path, tmp_path: Path) -> None:
    clips = clips_of(shared, "basketball_action")
    short = next(path for path in sorted(clips.glob("*/*.mp4")) if number_of_frames(path) == 5)
    (tmp_path / "test.csv").write_text(f"class,video_name\n{short.parent.name},{short.stem}\n")
    cfg = configure(clips, tmp_path, tmp_path, "MODEL.NUM_CLASSES", 1, "DATA.SAMPLING_RATE", 2)
    clip = ClipDataset(cfg, "test")[0]["clip"]
    assert (clip[:, 5:] == clip[:, [3, 2, 1]]).all()
    assert all((clip[:, frame] != clip[:, frame + 1]).any() for frame in range(7))
