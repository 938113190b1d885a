"""Folders of frames that a manifest describes: opened without listing them, with the same frames."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from fvcore.common.config import CfgNode
from PIL import Image

from tests.datasets.earlier_manifest import write_earlier_manifest
from timesformer.commands.prepare import main
from timesformer.datasets.catalog import load_split
from timesformer.datasets.clips import ClipDataset
from timesformer.datasets.decoding.images import numbered_frames, numbering
from timesformer.datasets.decoding.open import VideoError
from timesformer.datasets.durations import median_seconds
from timesformer.datasets.manifest import NAME, Manifest, clip_files
from timesformer.datasets.records import SPLITS
from timesformer.preview.clips import load_draws

TIME = 1_700_000_000_123_456_789
"""When the folders were last changed, in nanoseconds."""

CLIPS = {  # names of frames in order, and their pattern
    "catch/padded": ([f"{n:05d}.jpg" for n in range(1, 13)], "%05d.jpg#1-12"),
    "catch/not padded": ([f"{n}.JPG" for n in range(1, 13)], "%d.JPG#1-12"),
    "catch/text, 100% #1-2": ([f"a, 5%d#{n:02d}_rgb.jpg" for n in range(95, 107)], "a, 5%d#%02d_rgb.jpg#95-106"),
    "wave/others": ([f"img_{n:05d}.jpg" for n in range(12)], "img_%05d.jpg#0-11"),
    "wave/gap": ([f"{n:05d}.jpg" for n in (*range(6), *range(7, 13))], ""),
    "wave/two formats": ([f"{n}.{('jpg', 'png')[n % 2]}" for n in range(12)], ""),
}
IRREGULAR = {"gap", "two formats"}


def save_frame(path: Path, brightness: int) -> None:
    """A picture whose left half has this brightness, and its right half twice as much."""
    pixels = np.full((24, 32, 3), brightness, np.uint8)
    pixels[:, 16:] *= 2
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path, cfg: CfgNode) -> Path:
    """CLIPS with lists, as of HMDB_simp: the same clips are in all splits. The manifest is written."""
    root = tmp_path / "hmdb"
    for clip, (names, _) in CLIPS.items():
        (root / clip).mkdir(parents=True)
        for number, name in enumerate(names):
            save_frame(root / clip / name, 10 * number)
    for number in range(12):
        save_frame(root / f"wave/others/flow_x_{number:05d}.jpg", 200)
    (root / "wave/others/notes.txt").touch()
    (root / "wave/others/@eaDir").mkdir()  # of Synology storage
    settle(root)
    check(root)
    for number, split in enumerate(SPLITS):
        lines = (f'{label},"{name}"\n' for label, name in (clip.split("/") for clip in list(CLIPS)[number::3]))
        (root / f"{split}.csv").write_text("class,video_name\n" + "".join(lines))
    cfg.DATA.PATH_TO_DATA_DIR = str(root)
    cfg.DATA.DECODE_TIMEOUT = 0
    return root


def settle(root: Path) -> None:
    for clip in CLIPS:
        os.utime(root / clip, ns=(TIME, TIME))


def check(root: Path) -> dict[str, tuple[int, str, int]]:
    """Run `prepare.py --check`; frames, pattern and modified of each clip in the manifest."""
    assert main(["folder", str(root), "--check", "--no-duplicates", "--workers", "1"]) == 0
    return {row.path: (row.frames, row.pattern, row.modified) for row in Manifest(root / NAME)}


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the folders that are listed."""
    names: list[str] = []

    def recording(function: Callable) -> Callable:
        def run(path: str | os.PathLike[str] = ".") -> object:
            names.append(os.path.basename(path))
            return function(path)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", recording(os.listdir))
        patch.setattr(os, "scandir", recording(os.scandir))
        yield names


def read_all(cfg: CfgNode) -> dict[str, np.ndarray]:
    """All frames of every clip, as a run opens them, by its name."""
    found = {}
    for split in SPLITS:
        dataset = ClipDataset(cfg, split)
        for record in dataset.records:
            with dataset.maker.open(record) as reader:
                assert (reader.path, reader.fps) == (record.path, 0.0)
                found[record.name] = reader.read(range(reader.num_frames))
    return found


def read_with_pillow(root: Path, clip: str, names: Sequence[str]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(root / clip / name)) for name in names])


def clips_in(names: Sequence[str]) -> set[str]:
    return {clip.partition("/")[2] for clip in CLIPS}.intersection(names)


def test_a_second_start_lists_no_regular_folder(root: Path, cfg: CfgNode, listed: list[str]) -> None:
    listed.clear()
    items = [dataset[n] for split in SPLITS for dataset in [ClipDataset(cfg, split)] for n in range(len(dataset))]
    assert all(item["readable"] for item in items)
    frames = read_all(cfg)
    train = ClipDataset(cfg, "train")
    (shown,) = load_draws(cfg, train, [0], 1)
    assert median_seconds(train.records, 6.0) == 2.0
    assert (shown.problem, shown.num_frames) == ("", 12)
    assert clips_in(listed) == IRREGULAR
    for clip, (names, _) in CLIPS.items():
        expected = read_with_pillow(root, clip, names)
        np.testing.assert_allclose(frames[clip].astype(int), expected, atol=1)  # versions of libjpeg-turbo
    (root / NAME).unlink()
    listed.clear()
    again = [dataset[n] for split in SPLITS for dataset in [ClipDataset(cfg, split)] for n in range(len(dataset))]
    assert clips_in(listed) == {clip.partition("/")[2] for clip in CLIPS}
    assert all(one["clip"].equal(other["clip"]) for one, other in zip(items, again, strict=True))


def test_clips_are_found_without_listing_regular_folders(root: Path, cfg: CfgNode, listed: list[str]) -> None:
    for split in SPLITS:
        (root / f"{split}.csv").unlink()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "folder"
    listed.clear()
    found = [list(load_split(cfg, split).records) for split in SPLITS]
    assert clips_in(listed) == IRREGULAR
    assert {record.name for records in found for record in records} == CLIPS.keys()
    (root / NAME).rename(root / "hidden")
    without = [list(load_split(cfg, split).records) for split in SPLITS]
    assert [[(one.name, one.label, one.path) for one in of] for of in found] == [
        [(one.name, one.label, one.path) for one in of] for of in without
    ]
    (root / "hidden").rename(root / NAME)
    for path in (root / "catch/padded").iterdir():
        path.unlink()
    (root / "catch/padded/new").mkdir()
    save_frame(root / "catch/padded/new/1.jpg", 0)  # it has clips now, and is none
    names = {record.name for split in SPLITS for record in load_split(cfg, split).records}
    assert names == CLIPS.keys() - {"catch/padded"} | {"catch/padded/new"}


def test_the_manifest_has_patterns_of_folders_that_have_not_just_changed(root: Path) -> None:
    (root / "wave/gap/00006.jpg").write_bytes((root / "wave/gap/00005.jpg").read_bytes())
    in_minutes = time.time_ns() + 10**12
    os.utime(root / "wave/gap", ns=(in_minutes, in_minutes))  # has just changed, however slow the machine is
    expected = {clip: (12, pattern, TIME if pattern else 0) for clip, (_, pattern) in CLIPS.items()}
    assert check(root) == expected | {"wave/gap": (13, "", 0)}
    settle(root)
    assert check(root) == expected | {"wave/gap": (13, "%05d.jpg#0-12", TIME)}
    (root / "wave/gap/folder").mkdir()  # reported at every start
    settle(root)
    assert check(root) == expected | {"wave/gap": (13, "", 0)}


def test_a_changed_folder_is_listed_again(root: Path, cfg: CfgNode, listed: list[str]) -> None:
    before = read_all(cfg)
    save_frame(root / "catch/padded/00003.jpg", 90)  # replaced in place: the folder is not changed
    (root / "catch/not padded/12.JPG").unlink()
    save_frame(root / "wave/others/img_00012.jpg", 100)
    listed.clear()
    after = read_all(cfg)
    assert clips_in(listed) == IRREGULAR | {"not padded", "others"}
    assert after["catch/padded"][2, 0, 0, 0] == 90
    assert np.array_equal(after["catch/not padded"], before["catch/not padded"][:11])
    assert len(after["wave/others"]) == 13
    assert after["wave/others"][12, 0, 0, 0] == 100
    moved = root.with_name("moved")
    shutil.copytree(root, moved)
    cfg.DATA.PATH_TO_DATA_DIR = str(moved)
    for clip in CLIPS:
        os.utime(moved / clip)
    listed.clear()
    assert all(np.array_equal(frames, after[clip]) for clip, frames in read_all(cfg).items())
    assert clips_in(listed) == {clip.partition("/")[2] for clip in CLIPS}


def test_a_missing_frame_is_named(root: Path, cfg: CfgNode) -> None:
    (root / "catch/padded/00003.jpg").unlink()
    settle(root)  # as a copy with the times of the original
    with pytest.raises(VideoError, match=r"catch/padded: frame 00003\.jpg"):
        read_all(cfg)


def test_earlier_manifests_are_read(root: Path, cfg: CfgNode, listed: list[str]) -> None:
    frames = read_all(cfg)
    write_earlier_manifest(root / NAME)
    listed.clear()
    assert all(np.array_equal(found, frames[clip]) for clip, found in read_all(cfg).items())
    assert clips_in(listed) == {clip.partition("/")[2] for clip in CLIPS}


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["cover.jpg"],
        ["1.jpg", "02.jpg"],
        ["1.jpg", "3.jpg"],
        ["1.jpg", "2.JPG"],
        ["1_a%.jpg", "2_a%.jpg"],
        ["1_\n.jpg", "2_\n.jpg"],
        ["0001_v2.jpg", "0002_v2.jpg"],
    ],
)
def test_irregular_names_have_no_pattern(names: list[str]) -> None:
    assert not numbering(names)


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["7.jpg"], "%d.jpg#7-7"),
        (["9.png", "10.png"], "%d.png#9-10"),
        (["0099.png", "0100.png"], "%04d.png#99-100"),
        (["a%06d_1#.jpg", "a%06d_2#.jpg"], "a%06d_%d#.jpg#1-2"),
        (["é\udcff 8.jpg", "é\udcff 9.jpg"], "é\udcff %d.jpg#8-9"),
    ],
)
def test_patterns_of_names(names: list[str], pattern: str) -> None:
    assert numbering(names) == pattern
    folder = "/data/100% %03d.jpg#1-2"
    assert list(numbered_frames(f"{folder}/{pattern}")) == [f"{folder}/{name}" for name in names]


def test_a_file_has_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "x.avi").write_bytes(b"123")
    assert clip_files(str(tmp_path / "x.avi")) == (3, "", 0)
    assert clip_files(str(tmp_path / "missing")) == (0, "", 0)
