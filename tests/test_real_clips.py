"""Training and testing on filmed clips (docs/real_clips.md)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import simplejson
from PIL import Image

from tests.processes import Outcome
from timesformer.config import load_config
from timesformer.datasets.decoding.open import open_video
from timesformer.engine.evaluate import test as run_test
from timesformer.engine.train import train

pytestmark = pytest.mark.slow
SHIPPED = Path(__file__).parents[1] / "configs/HMDB/TimeSformer_divST_scratch_small.yaml"
SMALL = """
    TRAIN.BATCH_SIZE 3 GLOBAL_BATCH_SIZE 3 SOLVER.MAX_EPOCH 1 SOLVER.WARMUP_EPOCHS 0 TIMESFORMER.EMBED_DIM 48
    TIMESFORMER.DEPTH 2 DATA_LOADER.NUM_WORKERS 0 TENSORBOARD.ENABLE False
"""


def write_splits(shared: Path, name: str, folder: Path) -> tuple[Path, list[Path]]:
    """Writes train.csv, val.csv and test.csv of 2, 1 and 1 clips of every class; returns the data folder and clips."""
    clips = shared / "videos" / name
    if not clips.is_dir():
        pytest.skip(f"no reference clips at {clips}")
    folder.mkdir()
    listed, taken = [], 0
    for split, number in {"train": 2, "val": 1, "test": 1}.items():
        chosen = [path for label in sorted(clips.iterdir()) for path in sorted(label.iterdir())[taken : taken + number]]
        rows = [f"{path.parent.name},{path.stem}\n" for path in chosen]
        (folder / f"{split}.csv").write_text("".join(["class,video_name\n", *rows]))
        listed += chosen
        taken += number
    return clips, listed


def run(clips: Path, splits: Path, output: Path, options: str) -> tuple[dict[str, Any], list[float]]:
    """Trains and tests the shipped model, made smaller; returns results.json and the training loss of each epoch."""
    paths = ["DATA.PATH_TO_DATA_DIR", clips, "DATA.SPLITS_DIR", splits, "OUTPUT_DIR", output]
    cfg = load_config(SHIPPED, [*map(str, paths), *SMALL.split(), *options.split()])
    train(cfg)
    results = simplejson.loads(run_test(cfg).read_text())
    lines = map(simplejson.loads, (output / "metrics.jsonl").read_text().splitlines())
    return results, [line["loss"] for line in lines if line["kind"] == "train_epoch"]


def test_video_files_and_folders_of_frames_give_the_same_result(shared: Path, tmp_path: Path) -> None:
    (clips, listed), frames = write_splits(shared, "basketball_action", tmp_path / "splits"), tmp_path / "frames"
    for path in listed:
        folder = frames / path.parent.name / path.stem
        folder.mkdir(parents=True)
        with open_video(path) as video:
            for number, frame in enumerate(video.read(range(video.num_frames))):
                Image.fromarray(frame).save(folder / f"{number}.png", compress_level=0)  # no loss, unlike JPEG
    found = []
    for data, output in ((clips, tmp_path / "files_out"), (frames, tmp_path / "frames_out")):
        results, losses = run(data, tmp_path / "splits", output, "MODEL.NUM_CLASSES 5 DATA.SAMPLING_RATE 2")
        assert (results["num_videos"], results["unreadable"]) == (5, [])
        found.append((results["top1"], results["loss"], losses, (output / "predictions.csv").read_text()))
    assert found[0] == found[1]


def test_small_model_overfits_a_few_clips(shared: Path, tmp_path: Path) -> None:
    clips, _ = write_splits(shared, "hosszu_actions", tmp_path / "splits")
    options = "MODEL.NUM_CLASSES 3 SOLVER.MAX_EPOCH 20 TRAIN.EVAL_PERIOD 20 DATA.RANDOM_FLIP False"
    _, losses = run(clips, tmp_path / "splits", tmp_path / "out", f"{options} DATA.SAMPLER_START first")
    assert losses[-1] < losses[0] / 4


def test_head_on_frozen_features_recognizes_actions(
    shared: Path, tmp_path: Path, run_net: Callable[..., Outcome]
) -> None:
    """The configurations for few clips, with small frames: of 12 test clips of three actions, a guess gets 4."""
    clips, weights = shared / "videos/hosszu_actions", shared / "weights/dinov2_vits16.pth"
    if not (clips.is_dir() and weights.is_file()):
        pytest.skip(f"no reference clips at {clips}, or no weights at {weights}")
    options = f"""
        DATA.PATH_TO_DATA_DIR {clips} DATA.SPLIT_RULE folds DATA.TRAIN_CROP_SIZE 64 DATA.TEST_CROP_SIZE 64
        DATA.TRAIN_JITTER_SCALES [64,72] DATA_LOADER.NUM_WORKERS 0 MODEL.NUM_CLASSES 3 MODEL.PRETRAINED False
        MODEL.MODEL_NAME timm/vit_small_patch16_224 TEST.MEASURE_ORDER False TENSORBOARD.ENABLE False
    """
    frozen = f"FEATURES.NUM_VIEWS 1 FEATURES.CACHE_DIR {tmp_path / 'cache'}"
    steps = {
        "Frozen_ViT_S_8_224": f"TRAIN.CHECKPOINT_FILE_PATH {weights} {frozen}",
        "FineTune_ViT_S_last1_8_224": f"TRAIN.CHECKPOINT_FILE_PATH {tmp_path}/Frozen_ViT_S_8_224/checkpoints/best.pyth",
    }
    for name, weights_of_step in steps.items():
        config, output = SHIPPED.parents[1] / f"Folder/{name}.yaml", tmp_path / name
        outcome = run_net("--cfg", str(config), *f"{options} {weights_of_step} OUTPUT_DIR {output}".split())
        assert outcome.code == 0, outcome
        results = simplejson.loads((output / "results.json").read_text())
        assert (results["num_videos"], results["unreadable"]) == (12, [])
        assert results["top1"] > 60
