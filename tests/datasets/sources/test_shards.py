"""Clips in tar shards, as WebDataset and tarfile write them: found, read by offset, and named when they are lost."""

import base64
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import webdataset
from fsspec.implementations.memory import MemoryFileSystem
from fvcore.common.config import CfgNode

from tests.datasets.made_videos import moving_scene
from tests.datasets.sources.common import assert_fails, make_cfg, names_of, write
from tests.loopback import Server
from timesformer.byte_ranges import _ANSWERS, read_range
from timesformer.datasets.catalog import load_split
from timesformer.datasets.clips import ClipDataset
from timesformer.datasets.decoding.open import VideoError, open_video
from timesformer.datasets.sources.shard_index import INDEX
from timesformer.fetch import DownloadError

NAMES = [f"wave/{number}.avi" for number in range(6)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMESFORMER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def videos(tmp_path: Path, make_video: Callable[..., Path]) -> Path:
    """A folder of videos of 8 to 13 frames."""
    for number, name in enumerate(NAMES):
        make_video(tmp_path / "videos" / name, moving_scene(8 + number, 32, 24))
    return tmp_path / "videos"


@pytest.fixture
def shards(videos: Path, tmp_path: Path) -> Path:
    """A folder of two shards with three videos each, written by WebDataset, and no index."""
    folder = tmp_path / "shards"
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "train-%06d.tar"), maxcount=3, verbose=0) as writer:
        for number, name in enumerate(NAMES):
            key, _, extension = name.partition(".")
            writer.write({"__key__": key, extension: (videos / name).read_bytes(), "cls": number % 2})
    return folder


@pytest.fixture
def cfg(tmp_path: Path, shards: Path) -> CfgNode:
    """Configuration of a list of the clips, in another order than that of the shards, and of the shards."""
    write(tmp_path / "lists/train.csv", *(f"{name} {int(name[5]) % 2}" for name in reversed(NAMES)))
    return make_cfg("kinetics", tmp_path / "lists", PATH_PREFIX=f"{shards}/train-{{000000..000001}}.tar")


def frames_of(path: str | Path) -> np.ndarray:
    with open_video(path) as video:
        return np.stack(list(video.frames()))


def member(shard: Path, name: str) -> tuple[int, int]:
    """First byte and end of a file in a shard, as tarfile has them."""
    with tarfile.open(shard) as archive:
        found = archive.getmember(name)
        return found.offset_data, found.offset_data + found.size


@pytest.mark.parametrize(
    "prefix",
    ["train-{000000..000001}.tar", "train-00000{0,1}.tar", "train-*.tar", "train-000001.tar::{}/train-000000.tar"],
)
def test_clips_are_those_of_files(cfg: CfgNode, videos: Path, shards: Path, prefix: str) -> None:
    cfg.DATA.PATH_PREFIX = f"{shards}/{prefix.replace('{}', str(shards))}"
    records = load_split(cfg, "train").records
    assert list(records.names) == NAMES[::-1]
    for record in records:
        np.testing.assert_array_equal(frames_of(record.path), frames_of(videos / record.name))


def test_names_in_lists_without_extension_or_with_another(cfg: CfgNode, tmp_path: Path) -> None:
    write(tmp_path / "lists/train.csv", "wave/0 0", "./wave/1.mp4 1")
    assert ["/wave/0.avi#" in path for path in load_split(cfg, "train").records.paths()] == [True, False]
    write(tmp_path / "lists/train.csv", "wave/0.avi 0", "wave/other.avi 1")
    assert_fails(cfg, "wave/other.avi", "MAX_MISSING_FRACTION")


def test_large_video_is_read_in_parts(cfg: CfgNode, videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("open", "packet_source"):
        monkeypatch.setattr(f"timesformer.datasets.decoding.{module}.LARGEST_KEPT", 0)
    path = load_split(cfg, "train").records[0].path
    np.testing.assert_array_equal(frames_of(path), frames_of(videos / NAMES[5]))


def test_index_is_written_once_and_again_for_changed_shards(cfg: CfgNode, shards: Path, videos: Path) -> None:
    names_of(cfg)
    entries = [json.loads(line) for line in (shards / INDEX).read_text().splitlines()]
    for entry in entries:  # to the form of an earlier version
        names, *spans = (entry.pop(name) for name in ("names", "starts", "sizes"))
        entry["clips"] = dict(zip(names, map(list, zip(*spans, strict=True)), strict=True))
    found = {name: span for entry in entries for name, span in entry["clips"].items()}
    expected = {}
    for shard in sorted(shards.glob("*.tar")):
        with tarfile.open(shard) as archive:
            expected |= {item.name: [item.offset_data, item.size] for item in archive if item.name.endswith(".avi")}
    assert found == expected
    (shards / INDEX).write_text("\n".join(map(json.dumps, entries)))  # which is still read
    written = (shards / INDEX).stat()
    names_of(cfg)
    assert os.path.samestat((shards / INDEX).stat(), written)  # it is written by renaming another file

    old = load_split(cfg, "train").records[5]
    with tarfile.open(shards / "train-000000.tar", "w") as archive:  # in another order
        for name in NAMES[2::-1]:
            archive.add(videos / name, name)
    with pytest.raises(VideoError, match="changed"):
        open_video(old.path)
    new = load_split(cfg, "train").records[5]
    np.testing.assert_array_equal(frames_of(new.path), frames_of(videos / NAMES[0]))


def test_index_of_a_folder_that_cannot_be_written(cfg: CfgNode, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shards / f"{INDEX}.partial").mkdir()  # root may write anywhere
    assert names_of(cfg) == names_of(cfg) == NAMES[::-1]
    assert not (shards / INDEX).exists()


def test_truncated_shard_names_its_clips(cfg: CfgNode, shards: Path) -> None:
    names_of(cfg)  # writes the index
    shard = shards / "train-000001.tar"
    start, _ = member(shard, NAMES[4])
    os.truncate(shard, start + 100)
    found = load_split(cfg, "train")
    assert sorted(found.records.names[number] for number in found.records.problems) == NAMES[4:]
    dataset = ClipDataset(cfg, "val", found)
    readable = {found.records.names[item["video"]]: item["readable"] for item in (dataset[n] for n in range(6))}
    assert readable == {name: name not in NAMES[4:] for name in NAMES}
    cfg.DATA.ON_UNREADABLE = "error"
    assert_fails(cfg, shard, *NAMES[4:])
    shard.unlink()
    assert_fails(cfg, shard, *NAMES[3:])


def test_truncated_shard_without_index(cfg: CfgNode, shards: Path) -> None:
    shard = shards / "train-000001.tar"
    os.truncate(shard, member(shard, NAMES[4])[0] + 100)
    assert_fails(cfg, NAMES[5], shard, "MAX_MISSING_FRACTION")
    cfg.DATA.MAX_MISSING_FRACTION = 0.2
    found = load_split(cfg, "train").records
    assert [found.names[number] for number in found.problems] == [NAMES[4]]


def test_damaged_header_loses_one_clip(cfg: CfgNode, shards: Path, videos: Path) -> None:
    names_of(cfg)
    shard = shards / "train-000000.tar"
    start, _ = member(shard, NAMES[1])
    with shard.open("r+b") as file:
        file.seek(start - tarfile.BLOCKSIZE)
        file.write(b"x" * tarfile.BLOCKSIZE)
    *_, third, second, first = load_split(cfg, "train").records
    with pytest.raises(VideoError, match=f"{shard}/{NAMES[1]}"):
        open_video(second.path)
    for record in (first, third):
        np.testing.assert_array_equal(frames_of(record.path), frames_of(videos / record.name))


@pytest.mark.parametrize(
    ("content", "prefix"),
    [(b"\x1f\x8b" + bytes(600), "x.tar"), (b"no tar" * 200, "x.tar"), (b"", "x.tar.gz"), (None, "x.tar")],
)
def test_files_that_are_no_shards(cfg: CfgNode, tmp_path: Path, content: bytes | None, prefix: str) -> None:
    if content is not None:
        (tmp_path / prefix).write_bytes(content)
    cfg.DATA.PATH_PREFIX = str(tmp_path / prefix)
    assert_fails(cfg, tmp_path / prefix)


def test_clip_in_two_shards(cfg: CfgNode, shards: Path) -> None:
    cfg.DATA.PATH_PREFIX += f"::{shards}/train-000000.tar"
    (shards / "copy.tar").write_bytes((shards / "train-000000.tar").read_bytes())
    cfg.DATA.PATH_PREFIX = f"{shards}/*.tar"
    assert_fails(cfg, NAMES[0], "copy.tar", "train-000000.tar")


def test_shards_of_a_server(cfg: CfgNode, shards: Path, videos: Path, server: Server) -> None:
    large = io.BytesIO()
    with tarfile.open(fileobj=large, mode="w") as archive:
        archive.add(videos / NAMES[0], NAMES[0])
        header = tarfile.TarInfo("large.json")
        header.size = 3 << 20
        archive.addfile(header, io.BytesIO(bytes(header.size)))
        archive.add(videos / NAMES[1], NAMES[1])
    server.files["/train.tar"] = large.getvalue()
    cfg.DATA.PATH_PREFIX = server.url("/train.tar")
    cfg.DATA.MAX_MISSING_FRACTION = 0.7
    records = load_split(cfg, "train").records
    assert list(records.names) == NAMES[1::-1]
    for record in records:
        np.testing.assert_array_equal(frames_of(record.path), frames_of(videos / record.name))
    sizes = [int(last) - int(first) for _, asked in server.asked if asked for first, last in [asked[6:].split("-")]]
    assert max(sizes) < 100_000
    del server.asked[:]
    assert names_of(cfg) == NAMES[1::-1]
    assert len([path for path, _ in server.asked if path.endswith(".tar")]) == 1  # for its size and ETag

    server.resumable = False
    with pytest.raises(VideoError, match=server.url("/train.tar")):
        open_video(records[0].path)
    with pytest.raises(DownloadError, match=server.url("/train.tar")):
        names_of(cfg)


def test_shards_behind_a_proxy_with_a_password(
    cfg: CfgNode, shards: Path, videos: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    server.proxy_authorization = "Basic " + base64.b64encode(b"user:p@ss word").decode()
    address = "http://127.0.0.2/train-{000000..000001}.tar"  # the proxy answers for it
    server.files = {f"http://127.0.0.2/{path.name}": path.read_bytes() for path in shards.iterdir()}
    cfg.DATA.PATH_PREFIX = address
    monkeypatch.setenv("http_proxy", server.url("").replace("//", "//user:p%40ss%20word@"))
    for record in load_split(cfg, "train").records:
        np.testing.assert_array_equal(frames_of(record.path), frames_of(videos / record.name))
    monkeypatch.setenv("http_proxy", server.url("").replace("//", "//user:secret@"))
    with pytest.raises(DownloadError, match="407") as error:
        names_of(cfg)
    assert "secret" not in str(error.value)


class BreakingFileSystem(MemoryFileSystem):
    """Objects in memory; the next `breaks` reads break off."""

    protocol, breaks = "breaking", 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("breaking:/"))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: object) -> bytes:
        content = super().cat_file(path, start, end, **options)
        if BreakingFileSystem.breaks:
            BreakingFileSystem.breaks -= 1
            raise ConnectionResetError(f"after {len(content) // 2} bytes")
        return content


def test_reads_of_object_storage_that_break_off_are_repeated(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("breaking", BreakingFileSystem, clobber=True)
    content = (shards / "train-000000.tar").read_bytes()
    BreakingFileSystem().pipe("/bucket/train.tar", content)
    monkeypatch.setattr(BreakingFileSystem, "breaks", 1)
    assert read_range("breaking://bucket/train.tar", 100, 5000) == content[100:5000]
    assert BreakingFileSystem.breaks == 0
    monkeypatch.setattr(BreakingFileSystem, "breaks", 100)
    with pytest.raises(DownloadError, match=r"breaking://bucket/train\.tar"):
        read_range("breaking://bucket/train.tar", 100, 5000)
    assert BreakingFileSystem.breaks == 100 - _ANSWERS


def test_shards_of_a_file_system_of_fsspec(cfg: CfgNode, shards: Path, videos: Path) -> None:
    files = fsspec.filesystem("memory")
    for path in shards.iterdir():
        files.pipe(f"/bucket/{path.name}", path.read_bytes())
    cfg.DATA.PATH_PREFIX = "memory://bucket/train-{000000..000001}.tar"
    for record in load_split(cfg, "train").records:
        np.testing.assert_array_equal(frames_of(record.path), frames_of(videos / record.name))
    cfg.DATA.PATH_PREFIX = "none://bucket/train.tar"
    with pytest.raises(DownloadError, match="fsspec"):
        names_of(cfg)
