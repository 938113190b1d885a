"""Hundreds of damaged clips through the whole loader: no crash, no hang, no wrong label, each one read or named."""

import os
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.datasets.made_videos import encode, moving_scene
from timesformer.config import get_cfg
from timesformer.datasets import clips
from timesformer.datasets.loader import construct_loader
from timesformer.datasets.records import DatasetSplit, Records

pytestmark = pytest.mark.slow
KINDS = {
    "mpeg4.avi": ("mpeg4", {}),
    "h264.mp4": ("libx264", {"preset": "ultrafast", "bf": "2"}),
    "h264.mkv": ("libx264", {"preset": "ultrafast"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
}
WIDTH, HEIGHT = 64, 48
HOPELESS = ("truncated_0.01", "zeros", "noise", "backwards")
Clips = list[tuple[Path, bool | None]]  # paths, and whether each clip must be readable (None: it may)


def damages(data: bytes) -> dict[str, bytes]:
    """Damaged copies of a file, by kind of damage."""
    size, rng = len(data), np.random.default_rng(len(data))
    copies = {f"truncated_{share}": data[: int(share * size)] for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)}
    for end in (64, 1000, size):
        for number in (1, 3, 10, 100):
            flipped = np.frombuffer(data, np.uint8).copy()
            flipped[rng.integers(0, min(end, size), number)] ^= rng.integers(1, 256, number, dtype=np.uint8)
            copies[f"flipped_{end}_{number}"] = flipped.tobytes()
    for number in range(6):
        start, length = int(rng.integers(0, size)), int(rng.integers(1, size // 4))
        copies[f"zeroed{number}"] = (data[:start] + bytes(length) + data[start + length :])[:size]
        copies[f"missing_piece{number}"] = data[:start] + data[start + length :]
        copies[f"repeated_piece{number}"] = data[: start + length] + data[start:]
    copies |= {"zeros": bytes(size), "noise": rng.bytes(size), "backwards": data[::-1]}
    copies |= {"noise_before": rng.bytes(1000) + data, "noise_after": data + rng.bytes(1000)}
    for code, value in (("<I", 0xFFFFFFFF), (">I", 0x7FFFFFFF), (">I", 0x10000), (">H", 0xFFFF)):
        copies[f"width_{code}_{value}"] = data.replace(struct.pack(code, WIDTH), struct.pack(code, value))
    for box in (b"stsz", b"stco", b"stts", b"moov", b"mdat", b"avcC", b"idx1", b"movi", b"strf"):
        if (at := data.find(box)) >= 0:
            copies[f"huge_{box.decode()}"] = data[: at - 4] + b"\x7f\xff\xff\xff" + data[at:]
            copies[f"huge_after_{box.decode()}"] = data[: at + 8] + b"\x7f\xff\xff\xff" + data[at + 12 :]
    return {name: copy for name, copy in copies.items() if copy != data}


def add(found: Clips, path: Path, content: bytes | dict[str, bytes], readable: bool | None = None) -> None:
    """Write a file, or a folder of files."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.mkdir()
        for name, data in content.items():
            (path / name).write_bytes(data)
    found.append((path, readable))


def add_copies(found: Clips, path: Path, data: bytes) -> None:
    add(found, path, data, readable=True)
    for what, damaged in damages(data).items():
        add(found, path.with_name(f"{what}_{path.name}"), damaged, readable=False if what in HOPELESS else None)


def check(found: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load every clip for validation and for training, and check labels, errors and replacements."""
    cfg, paths = get_cfg(), [str(path) for path, _ in found]
    cfg.TRAIN.BATCH_SIZE, cfg.DATA_LOADER.NUM_WORKERS = 16, 2
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.DATA.DECODE_TIMEOUT = 4, 2, 20.0
    cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_JITTER_SCALES = 16, [16, 20]
    labels = [number % 2 for number in range(len(found))]
    split = DatasetSplit(Records(paths, labels, paths), ("a", "b"))
    monkeypatch.setattr(clips, "load_split", lambda cfg, name: split)
    loader, errors, seen = construct_loader(cfg, "val"), {}, []
    for batch in loader:
        errors |= batch["errors"]
        values = (batch[key] for key in ("video", "label", "readable", "clip"))
        for video, label, readable, clip in zip(*values, strict=True):
            assert label == labels[video]
            assert readable != (int(video) in errors)
            assert readable or not clip.any()
            if found[video][1]:  # no clip of another video
                assert torch.equal(clip, loader.dataset[int(video)]["clip"]), paths[video]
            seen.append(int(video))
    assert seen == list(range(len(found)))
    for number, (path, readable) in enumerate(found):
        assert readable is None or readable == (number not in errors), path
    assert all(reason.startswith(f"{paths[video]}: ") for video, reason in errors.items())
    assert not any("took longer" in reason for reason in errors.values())

    monkeypatch.setattr(clips, "REPLACEMENT_TRIES", len(found))  # as most clips here are damaged
    loader = construct_loader(cfg, "train")
    for batch, keys in zip(loader, loader.batch_sampler, strict=True):
        assert batch["readable"].all()
        for video, label, (_, index, _) in zip(batch["video"], batch["label"], keys, strict=True):
            assert label == labels[video] == labels[index]
            assert (video != index) == (index in batch["errors"])
            assert not found[index][1] or video == index
            assert found[video][1] is not False


def test_damaged_copies_of_generated_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Clips = []
    for name, (codec, options) in KINDS.items():
        data = encode(tmp_path / name, moving_scene(12, WIDTH, HEIGHT), codec, **options).read_bytes()
        add_copies(found, tmp_path / name, data)
        add(found, tmp_path / f"extension_of_{name}.{'mp4' if name.endswith('.avi') else 'avi'}", data, readable=True)
    for kind in ("jpeg", "png"):
        frames = {}
        for number, picture in enumerate(moving_scene(4, WIDTH, HEIGHT)):
            Image.fromarray(picture).save(file := BytesIO(), kind)
            frames[f"{number}.{kind}"] = file.getvalue()
        add(found, tmp_path / f"frames_{kind}", frames, readable=True)
        for what, damaged in damages(frames[f"2.{kind}"]).items():
            add(found, tmp_path / f"{what}_{kind}", frames | {f"2.{kind}": damaged})
    for suffix in (".mp4", ".avi", ".jpg", ""):
        add(found, tmp_path / f"text{suffix}", b"a note about this clip\n" * 100, readable=False)
        add(found, tmp_path / f"empty{suffix}", b"", readable=False)
        add(found, tmp_path / f"folder{suffix}", {"note.txt": b"1", "frame.mp4": b"2"}, readable=False)
        os.mkfifo(tmp_path / f"pipe{suffix}")  # which nothing writes into
        (tmp_path / f"link{suffix}").symlink_to(tmp_path / f"link{suffix}")
        found += [(tmp_path / f"{name}{suffix}", False) for name in ("absent", "pipe", "link")]
    assert len(found) > 300
    check(found, monkeypatch)


def test_damaged_copies_of_real_clips(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Clips = []
    for clip in ("hosszu_actions/boxing", "basketball_action/defense"):
        original = min((shared / "videos" / clip).iterdir(), key=lambda path: path.stat().st_size)
        add_copies(found, tmp_path / original.name, original.read_bytes())
    check(found, monkeypatch)
