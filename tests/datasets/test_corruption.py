"""Hundreds of damaged clips through the whole loader: no crash, no hang, no wrong label, each one read or named."""

import os
import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.datasets.made_videos import encode
from timesformer.config import get_cfg
from timesformer.datasets import clips
from timesformer.datasets.loader import construct_loader
from timesformer.datasets.records import DatasetSplit, Records, VideoRecord

KINDS = {  # codec and options by file name; x264 makes B-frames
    "mpeg4.avi": ("mpeg4", {}),
    "mjpeg.avi": ("mjpeg", {"qscale": "5"}),
    "h264.mp4": ("libx264", {"preset": "ultrafast", "bf": "2"}),
    "faststart.mp4": ("libx264", {"preset": "ultrafast"}),
    "h264.mkv": ("libx264", {"preset": "ultrafast"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "mpeg4.mov": ("mpeg4", {}),
}
WIDTH, HEIGHT, FRAMES = 64, 48, 12


def encoded(file: Path, frames: int = FRAMES) -> bytes:
    """Content of a file of moving noise; its name is one of KINDS."""
    codec, options = KINDS[file.name]
    flags = {"movflags": "faststart"} if file.name.startswith("faststart") else {}
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pictures = [np.roll(noise, 3 * number, axis=1) for number in range(frames)]
    return encode(file, pictures, codec, format_options=flags, **options).read_bytes()


def picture(kind: str, number: int = 0, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    file, noise = BytesIO(), np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


def damages(data: bytes, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Damaged copies of a file, each with what was done to it."""
    size = len(data)
    for number, share in enumerate([0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]):
        yield f"truncated{number}", data[: int(share * size)]
    yield "truncated_by_a_byte", data[:-1]
    yield "one_byte", data[:1]
    for where, end in (("head", 64), ("front", 1000), ("anywhere", size), ("anywhere_again", size)):
        for number in (1, 3, 10, 100):
            flipped = np.frombuffer(data, np.uint8).copy()
            places = rng.integers(0, min(end, size), number)
            flipped[places] ^= rng.integers(1, 256, number, dtype=np.uint8)
            yield f"flipped_{where}_{number}", flipped.tobytes()
    for number in range(8):
        start, length = int(rng.integers(0, size)), int(rng.integers(1, size // 4))
        yield f"zeroed{number}", (data[:start] + bytes(length) + data[start + length :])[:size]
    for number in range(4):
        start, length = int(rng.integers(0, size)), int(rng.integers(1, size // 4))
        yield f"missing_piece{number}", data[:start] + data[start + length :]
        yield f"piece_twice{number}", data[: start + length] + data[start:]
    yield "zeros", bytes(size)
    yield "noise", rng.bytes(size)
    yield "backwards", data[::-1]
    yield "noise_before", rng.bytes(1000) + data
    yield "noise_after", data + rng.bytes(1000)
    for number, value in enumerate((0xFFFFFFFF, 0x7FFFFFFF, 0x10000)):  # wherever a width stands, a huge one
        for code in ("<I", ">I", ">H"):
            small, huge = struct.pack(code, WIDTH), struct.pack(code, value & (0xFFFF if code == ">H" else 0xFFFFFFFF))
            if small in data:
                yield f"huge_width{number}{code[0] == '<'}{code[1]}", data.replace(small, huge)
    for box in (b"stsz", b"stco", b"stts", b"moov", b"mdat", b"avcC", b"idx1", b"movi", b"strf"):
        if (place := data.find(box)) >= 0:
            yield f"huge_{box.decode()}", data[: place - 4] + b"\x7f\xff\xff\xff" + data[place:]
            yield f"huge_after_{box.decode()}", data[: place + 8] + b"\x7f\xff\xff\xff" + data[place + 12 :]


class Collection:
    """Clips on disk, of two classes in turn, and which of them must be readable or must not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: list[VideoRecord] = []
        self.readable: set[int] = set()
        self.unreadable: set[int] = set()

    def add(self, name: str, make: bytes | Callable[[Path], object], readable: bool | None = None) -> None:
        number = len(self.records)
        path = self.folder / f"{number:04d}_{name}"
        path.write_bytes(make) if isinstance(make, bytes) else make(path)
        self.records.append(VideoRecord(str(path), number % 2, path.name))
        if readable is not None:
            (self.readable if readable else self.unreadable).add(number)

    def add_copies(self, name: str, data: bytes) -> None:
        """An intact copy, and all damaged ones."""
        self.add(f"whole_{name}", data, readable=True)
        for what, damaged in damages(data, np.random.default_rng(len(self.records))):
            hopeless = what in ("one_byte", "zeros", "noise", "backwards", "truncated0")
            self.add(f"{what}_{name}", damaged, readable=False if hopeless else None)


def folder_of(files: dict[str, bytes]) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        path.mkdir()
        for name, data in files.items():
            (path / name).write_bytes(data)

    return make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Some 600 damaged copies of clips, and intact ones between them."""
    made, scratch = Collection(tmp_path_factory.mktemp("damaged")), tmp_path_factory.mktemp("scratch")
    for name in KINDS:
        made.add_copies(name, data := encoded(scratch / name))
        made.add(f"one_frame_{name}", encoded(scratch / name, frames=1), readable=True)
        made.add(f"wrong_extension_{name}{'.mp4' if name.endswith('.avi') else '.avi'}", data, readable=True)
        made.add(f"no_extension_{name.replace('.', '_')}", data, readable=True)
    for kind, suffix in (("JPEG", "jpg"), ("PNG", "png")):
        frames = {f"{number}.{suffix}": picture(kind, number) for number in range(4)}
        made.add(f"frames_{kind}", folder_of(frames), readable=True)
        for what, damaged in damages(frames[f"2.{suffix}"], np.random.default_rng(0)):
            made.add(f"{what}_{kind}", folder_of(frames | {f"2.{suffix}": damaged}))
        for width, height in ((1, 1), (1, 8192), (8192, 3)):  # of the last two, no square can be cut
            ribbon = folder_of({f"0.{suffix}": picture(kind, 0, width, height)})
            made.add(f"{width}x{height}_{kind}", ribbon, readable=width == height)
        other = picture(kind, 3, HEIGHT, WIDTH)
        made.add(f"frames_that_differ_in_size_{kind}", folder_of(frames | {f"3.{suffix}": other}), False)
        made.add(f"picture_for_a_clip_{kind}.{suffix}", picture(kind))
    for suffix in (".mp4", ".avi", ".jpg", ""):
        made.add(f"text{suffix}", b"a note about this clip\n" * 100, readable=False)
        made.add(f"page{suffix}", b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 50, readable=False)
        made.add(f"empty{suffix}", b"", readable=False)
        made.add(f"folder{suffix}", Path.mkdir, readable=False)
        made.add(f"folder_of_notes{suffix}", folder_of({"note.txt": b"1", "frame.mp4": b"2"}), readable=False)
        made.add(f"absent{suffix}", lambda path: None, readable=False)
        made.add(f"link_to_itself{suffix}", lambda path: path.symlink_to(path), readable=False)
        made.add(f"pipe{suffix}", os.mkfifo, readable=False)  # which nothing writes into
    return made


def check(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load every clip for validation and for training, and check labels, errors and replacements."""
    cfg, records = get_cfg(), collection.records
    cfg.TRAIN.BATCH_SIZE, cfg.DATA_LOADER.NUM_WORKERS = 16, 2
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.DATA.DECODE_TIMEOUT = 4, 2, 20.0
    cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_JITTER_SCALES = 16, [16, 20]
    columns = zip(*((record.name, record.label, record.path) for record in records), strict=True)
    split = DatasetSplit(Records(*columns), ("a", "b"))
    monkeypatch.setattr(clips, "load_split", lambda cfg, name: split)
    loader = construct_loader(cfg, "val")
    errors, seen = {}, {}
    for batch in loader:
        errors |= batch["errors"]
        for video, label, readable, clip in zip(
            *(batch[k] for k in ("video", "label", "readable", "clip")), strict=True
        ):
            assert label == records[video].label
            assert readable != (int(video) in batch["errors"])
            assert readable or not clip.any()
            seen[int(video)] = clip
    assert sorted(seen) == list(range(len(records)))
    assert {records[video].name for video in collection.unreadable - errors.keys()} == set()
    assert {records[video].name for video in collection.readable & errors.keys()} == set()
    for video, reason in errors.items():
        assert reason.startswith(f"{records[video].path}: ")
        assert "took longer" not in reason
    for video in collection.readable:  # no clip of another video
        assert torch.equal(seen[video], loader.dataset[video]["clip"]), records[video].name

    monkeypatch.setattr(clips, "REPLACEMENT_TRIES", len(records))  # as most clips here are damaged
    loader = construct_loader(cfg, "train")
    for batch, keys in zip(loader, loader.batch_sampler, strict=True):
        assert batch["readable"].all()
        for video, label, (_, index, _) in zip(batch["video"], batch["label"], keys, strict=True):
            assert label == records[video].label == records[index].label
            assert (video != index) == (index in batch["errors"])
            assert index not in collection.readable or video == index
            assert int(video) not in collection.unreadable


@pytest.mark.slow
def test_damaged_copies_of_made_clips(made: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(made.records) - len(made.readable) >= 500
    check(made, monkeypatch)


@pytest.mark.slow
def test_damaged_copies_of_real_clips(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Collection(tmp_path)
    for clip in ("hosszu_actions/boxing", "basketball_action/defense"):
        original = min((shared / "videos" / clip).iterdir(), key=lambda path: path.stat().st_size)
        real.add_copies(original.name, original.read_bytes())
    check(real, monkeypatch)
