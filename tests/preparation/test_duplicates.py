"""Duplicates, frozen clips and leakage, found by tools/prepare.py --check in clips with planted copies."""

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets.made_videos import encode, ffmpeg
from tests.datasets.sources.common import make_cfg, names_of, write
from timesformer.commands.prepare import SIMILARITY, main
from timesformer.preparation.duplicates import find_pairs
from timesformer.preparation.fingerprints import make_fingerprint, repeated_frames

Frames = list[np.ndarray]


def scene(camera: int, motion: int, count: int = 40) -> Frames:
    """Frames of three blobs that move in front of a background, which depends on the camera only."""
    y, x = np.mgrid[:72, :96]
    waves = np.random.default_rng(camera).uniform(0, 1, (6, 3))
    background = sum(np.sin(9 * (a * x / 96 + b * y / 72) + 9 * c) for a, b, c in waves)
    random = np.random.default_rng([camera, motion])
    starts, speeds = random.uniform(10, 60, (3, 2)), random.uniform(-1.2, 1.2, (3, 2))
    frames = []
    for number in range(count):
        frame = 120 + 20 * background + random.normal(0, 2, background.shape)
        for (top, left), speed in zip(starts, speeds, strict=True):
            place = top + number * speed[0], left + number * speed[1] + 6 * np.sin(number / 4)
            frame = frame + 90 * np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / 60)
        frames.append(np.clip(frame, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2))
    return frames


def resized(frames: Frames, width: int, height: int) -> Frames:
    return [np.asarray(Image.fromarray(frame).resize((width, height))) for frame in frames]


def brighter(frames: Frames, gain: float, added: float) -> Frames:
    return [np.clip(gain * frame.astype(float) + added, 0, 255).astype(np.uint8) for frame in frames]


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A split by folders: 8 different clips from 3 cameras, and copies of some in other splits and classes."""
    root = tmp_path / "data"
    clips = {f"train/walk/{camera}{motion}.avi": scene(camera, motion) for camera in range(3) for motion in range(2)}
    clips |= {"test/walk/02.avi": scene(0, 2), "val/walk/12.avi": scene(1, 2)}
    for name, frames in clips.items():
        encode(root / name, frames, "mjpeg")
    encode(root / "test/walk/encoded.mp4", scene(0, 0), "libx264", crf="30")
    encode(root / "test/walk/small.mp4", resized(scene(0, 1), 64, 48), "libx264")
    encode(root / "test/walk/bright.mp4", brighter(scene(1, 0), 0.9, 35), "libx264")
    encode(root / "val/walk/mirrored.mp4", [frame[:, ::-1] for frame in scene(1, 1)], "libx264")
    encode(root / "train/run/trimmed.mp4", scene(2, 0)[7:31], "libx264")
    encode(root / "train/run/later.mp4", scene(2, 1, 60)[25:], "libx264")
    (root / "train/run/equal.avi").write_bytes((root / "val/walk/12.avi").read_bytes())
    (root / "train/run/broken.mp4").write_bytes(b"")
    still = scene(3, 0)
    # So, x264 writes the same file in every run and on every processor.
    same = {"qp": "20", "x264-params": "cpu-independent=1"}
    encode(root / "train/run/freezes.mp4", [*still, *[still[-1]] * 30], "libx264", **same)
    return root


PAIRS = {
    "test/walk/encoded.mp4": "train/walk/00.avi",
    "test/walk/small.mp4": "train/walk/01.avi",
    "test/walk/bright.mp4": "train/walk/10.avi",
    "val/walk/mirrored.mp4": "train/walk/11.avi",
    "train/run/trimmed.mp4": "train/walk/20.avi",
    "train/run/later.mp4": "train/walk/21.avi",
    "train/run/equal.avi": "val/walk/12.avi",
}


def sorted_pairs(pairs: Sequence[dict]) -> list[list[str]]:
    return sorted(sorted((pair["first"], pair["second"])) for pair in pairs)


@pytest.mark.slow
def test_planted_duplicates_are_found_and_nothing_else(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["folder", str(planted), "--check", "--workers", "1"]) == 1  # one clip is broken
    page = (planted / "data_report.html").read_text()
    assert page.count('src="data:image/jpeg') == 2 * len(PAIRS) + 1
    assert all(name in page for pair in PAIRS.items() for name in pair)
    assert "leaked test clips: 3" in capsys.readouterr().out
    report = json.loads((planted / "data_report.json").read_text())
    assert sorted_pairs(report["duplicates"]) == sorted(sorted(pair) for pair in PAIRS.items())
    found = {frozenset((pair["first"], pair["second"])): pair for pair in report["duplicates"]}
    of = {name: found[frozenset((name, other))] for name, other in PAIRS.items()}
    assert [name for name, pair in of.items() if pair["mirrored"]] == ["val/walk/mirrored.mp4"]
    sums = {name: hashlib.sha256((planted / name).read_bytes()).digest() for pair in PAIRS.items() for name in pair}
    assert [pair["exact"] for pair in of.values()] == [sums[name] == sums[other] for name, other in PAIRS.items()]
    assert (of["train/run/trimmed.mp4"]["offset"], of["train/run/trimmed.mp4"]["overlap"]) == (7, 24)
    assert (of["train/run/later.mp4"]["offset"], of["train/run/later.mp4"]["overlap"]) == (25, 15)
    assert {(leak["clip"], leak["split"]) for leak in report["leaks"]} == {
        ("test/walk/encoded.mp4", "test"),
        ("test/walk/small.mp4", "test"),
        ("test/walk/bright.mp4", "test"),
        ("val/walk/mirrored.mp4", "val"),
        ("val/walk/12.avi", "val"),
    }
    (freeze,) = report["frozen"]
    assert (freeze["clip"], freeze["start"] + freeze["frames"]) == ("train/run/freezes.mp4", 70)
    assert 28 <= freeze["frames"] <= 31
    assert list(report["unreadable"]) == ["train/run/broken.mp4"]


@pytest.mark.slow
def test_accuracy_without_leaked_clips(planted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write(
        run / "config.yaml",
        f"TRAIN: {{DATASET: folder}}\nTEST: {{DATASET: folder}}\nDATA: {{PATH_TO_DATA_DIR: {planted}}}",
    )
    header = "video,label,class_1,probability_1"
    correct = ["walk/encoded.mp4", "walk/small.mp4"]
    wrong = ["walk/bright.mp4", "walk/02.avi"]
    lines = [f"{name},walk,{label},0.9" for names, label in ((correct, "walk"), (wrong, "run")) for name in names]
    write(run / "predictions.csv", header, *lines)
    main(["folder", str(planted), "--check", "--workers", "1", "--run", str(run)])
    accuracy = json.loads((planted / "data_report.json").read_text())["accuracy"]
    assert accuracy == {"correct": 2, "clips": 4, "correct_without": 0, "clips_without": 1}


def test_proposed_groups_keep_duplicates_in_one_split(tmp_path: Path, processed: list) -> None:
    root = tmp_path / "data"
    for number in range(8):
        encode(root / f"walk/{number}.avi", scene(number, 0, 16), "mjpeg")
        encode(root / f"walk/{number}, again.avi", scene(number, 0, 16), "mpeg4")
    command = ["folder", str(root), "--check", "--workers", "1"]
    assert main(command) == 0
    report = json.loads((root / "data_report.json").read_text())
    assert len(report["duplicates"]) == 8
    assert report["leaks"]
    with (root / "duplicate_groups.csv").open(newline="") as file:
        groups = {row["video"]: row["group"] for row in csv.DictReader(file)}
    assert len(groups) == 16
    cfg = make_cfg("folder", root, 1, SPLIT_RULE="folds", NUM_FOLDS=4, FOLD=2)
    assert main([*command, "DATA.SPLIT_RULE", "folds", "DATA.NUM_FOLDS", "4", "DATA.FOLD", "2"]) == 0
    of_fold = json.loads((root / "data_report.json").read_text())
    assert of_fold["splits"] == {split: len(names_of(cfg, split)) for split in ("train", "val", "test")}
    assert {leak["clip"] for leak in of_fold["leaks"] if leak["split"] == "test"} <= set(names_of(cfg, "test"))
    assert of_fold["leaks"]
    cfg = make_cfg("folder", root, 1)
    cfg.DATA.SPLIT_GROUPS = str(root / "duplicate_groups.csv")
    test = names_of(cfg, "test")
    assert {groups[name] for name in test}.isdisjoint(groups[name] for name in names_of(cfg, "train"))
    assert main([*command, "DATA.SPLIT_GROUPS", str(root / "duplicate_groups.csv")]) == 0
    assert not json.loads((root / "data_report.json").read_text())["leaks"]


def test_equal_frames_are_those_of_ffmpeg(tmp_path: Path) -> None:
    frames = scene(0, 0, 12)
    shown = [*frames[:6], *[frames[5]] * 3, *frames[3:8]]
    file = encode(tmp_path / "clip.avi", shown, "ffv1")
    ffmpeg("-i", file, "-f", "framemd5", tmp_path / "frames.txt")
    sums = [
        line.split(",")[-1].strip() for line in (tmp_path / "frames.txt").read_text().splitlines() if line[0] != "#"
    ]
    fingerprint = make_fingerprint(shown)
    assert repeated_frames(fingerprint) == len(sums) - len(set(sums)) == 6
    first = {checksum: number for number, checksum in reversed([*enumerate(sums)])}
    ours = {checksum: number for number, checksum in reversed([*enumerate(fingerprint["checksum"].tolist())])}
    assert [first[checksum] for checksum in sums] == [ours[checksum] for checksum in fingerprint["checksum"].tolist()]


def test_copies_at_another_rate_are_aligned_in_time() -> None:
    clips = [make_fingerprint(scene(0, 0, 60)), make_fingerprint(scene(0, 0, 60)[10::2])]
    (pair,) = find_pairs(clips, [30.0, 15.0], SIMILARITY)
    assert (pair.offset, pair.overlap) == (-5, 25)
    assert not [*find_pairs(clips, [30.0, 0.0], SIMILARITY)]  # an unknown rate is that of the other clip


def test_still_clips_are_compared_by_their_picture() -> None:
    random = np.random.default_rng(0)
    pictures = [scene(number, 0, 1)[0] for number in range(3)]
    noisy = [brighter([picture] * 12, 1.0, 2) for picture in pictures]
    clips = [make_fingerprint([picture] * 12) for picture in pictures] + [make_fingerprint(frames) for frames in noisy]
    assert {(pair.first, pair.second) for pair in find_pairs(clips, [25.0] * 6, SIMILARITY)} == {(0, 3), (1, 4), (2, 5)}
    black = [np.full((24, 32, 3), random.integers(8), np.uint8)] * 12
    assert not [*find_pairs([make_fingerprint(black), clips[0]], [25.0] * 2, SIMILARITY)]


@pytest.mark.slow
def test_no_false_pairs_of_fixed_cameras(shared: Path, tmp_path: Path) -> None:
    """Clips of one room at different times are not duplicates. Two of the clips show the same player, cut twice."""
    videos, root = shared / "videos", tmp_path / "data"
    if not (videos / "fir_updown").is_dir():
        pytest.skip(f"no clips in {videos}")
    chosen = [
        *sorted((videos / "fir_updown").glob("*/20200629_14*"))[:16],
        *(videos / "hosszu_actions/boxing").iterdir(),
    ]
    chosen += (videos / "basketball_action/dribbling").iterdir()
    for path in chosen:
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        (root / path.parent.name / path.name).symlink_to(path)
    assert main(["folder", str(root), "--check", "--workers", "2"]) == 0
    report = json.loads((root / "data_report.json").read_text())
    assert sorted_pairs(report["duplicates"]) == [["dribbling/dribbling_56.mp4", "dribbling/dribbling_66.mp4"]]
    assert not report["frozen"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--duplicates", "1.5"], "--duplicates"),
        (["--run", "nowhere"], "nowhere"),
        (["DATA.SPLIT_RULES", "random"], "DATA.SPLIT_RULES"),
        (["--chek"], "--chek"),
    ],
)
def test_mistakes_exit_with_status_2(
    tmp_path: Path,
    make_frames: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    make_frames(tmp_path / "wave/clip", 2)
    try:
        status = main(["folder", str(tmp_path), "--check", *arguments])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert named in capsys.readouterr().err
