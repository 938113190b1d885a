"""Remote paths: https://, s3:// and the handlers of a user."""

import io
import sys
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any

import pytest
from iopath.common import s3
from iopath.common.file_io import PathHandler

from tests.loopback import Server
from timesformer import paths
from timesformer.byte_ranges import file_status, read_range
from timesformer.config import get_cfg
from timesformer.config.sources import source_problem
from timesformer.datasets.sources.lists import splits_folder
from timesformer.fetch import DownloadError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("TIMESFORMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_local_paths_are_returned_as_they_are(tmp_path: Path) -> None:
    assert paths.local_path("folder/../model.pyth") == Path("folder/../model.pyth")
    file = tmp_path / "train.csv"
    file.write_text("a.mp4 0\n")
    with paths.open(file, encoding="utf-8") as lines:
        assert list(lines) == ["a.mp4 0\n"]


def test_http_files_are_downloaded_once(server: Server, cache: Path) -> None:
    server.files |= {"/some/model%20a.pyth?dl=1": b"m" * 9, "/b/list.csv": "é\r\n".encode()}
    url = server.url("/some/model%20a.pyth?dl=1")
    path = paths.local_path(url)
    assert path.read_bytes() == b"m" * 9
    assert path.parent == cache
    assert path.name.endswith("-model_a.pyth")
    assert paths.local_path(url) == path
    assert len(server.asked) == 1
    with paths.open(server.url("/b/list.csv"), encoding="utf-8", newline="") as file:
        assert file.read() == "é\r\n"
    with paths.path_manager.open(server.url("/b/list.csv"), "rb") as file:
        assert file.read() == "é\r\n".encode()


def test_cache_that_cannot_be_written(server: Server, cache: Path) -> None:
    cache.touch()
    with pytest.raises(DownloadError, match="TIMESFORMER_CACHE"):
        paths.local_path(server.url("/m"))


def test_registered_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mapped(PathHandler):
        def _get_supported_prefixes(self) -> list[str]:
            return ["mapped://"]

        def _get_local_path(self, path: str, force: bool = False, **options: Any) -> str:
            if not (file := tmp_path / path.removeprefix("mapped://")).exists():
                raise KeyError(path)
            return str(file)

        def _open(self, path: str, mode: str = "r", buffering: int = -1, **options: Any) -> IO[Any]:
            return Path(self._get_local_path(path)).open(mode)

    assert source_problem("mapped://model.pyth")
    monkeypatch.setattr(paths.path_manager, "_path_handlers", dict(paths.path_manager._path_handlers))
    paths.path_manager.register_handler(Mapped())
    (tmp_path / "model.pyth").write_bytes(b"m")
    assert source_problem("mapped://model.pyth") == ""
    assert paths.local_path("mapped://model.pyth") == tmp_path / "model.pyth"
    with pytest.raises(DownloadError, match="mapped://none"):
        paths.local_path("mapped://none")


class ClientError(Exception):
    """As botocore has it."""

    response = {"Error": {"Message": "Not Found", "Code": "404"}}  # noqa: RUF012


class BrokenBody:
    """An answer whose connection breaks."""

    def read(self) -> bytes:
        raise ConnectionResetError


class Client:
    """boto3's client for objects in memory."""

    def __init__(self, objects: dict[tuple[str, str], bytes]) -> None:
        self.objects, self.downloads, self.breaks = objects, 0, 0

    def head_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        if (Bucket, Key) not in self.objects:
            raise ClientError
        content = self.objects[Bucket, Key]
        stamp = {"LastModified": datetime(2020, 1, 1, tzinfo=timezone.utc), "ETag": f'"{sum(content)}"'}
        return {**stamp, "ContentLength": len(content)}

    def get_object(self, Bucket: str, Key: str, Range: str) -> dict[str, Any]:
        first, last = map(int, Range.removeprefix("bytes=").split("-"))
        content = self.objects[Bucket, Key][first : last + 1]
        self.breaks -= 1
        return {"Body": BrokenBody() if self.breaks >= 0 else io.BytesIO(content)}

    def get_paginator(self, operation: str) -> "Client":
        return self

    def paginate(self, Bucket: str, Prefix: str, Delimiter: str) -> list[dict[str, Any]]:
        keys = [key for bucket, key in self.objects if bucket == Bucket and key.startswith(Prefix)]
        return [{"Contents": [{"Key": key} for key in keys if Delimiter not in key.removeprefix(Prefix)]}]

    def download_file(self, bucket: str, key: str, file: str, Config: object) -> None:
        self.downloads += 1
        Path(file).write_bytes(self.objects[bucket, key])


def test_s3_objects_are_downloaded_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client({("a", "lists/train.csv"): b"a", ("b", "lists/train.csv"): b"b"})
    transfer = ModuleType("boto3.s3.transfer")
    transfer.TransferConfig = SimpleNamespace
    for name, module in {
        "boto3": ModuleType("boto3"),
        "boto3.s3": ModuleType("s3"),
        transfer.__name__: transfer,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(
        s3, "boto3", SimpleNamespace(Session=lambda profile_name: SimpleNamespace(client=lambda _: client))
    )
    exceptions = SimpleNamespace(ClientError=ClientError, NoCredentialsError=ClientError)
    monkeypatch.setattr(s3, "botocore", SimpleNamespace(exceptions=exceptions))
    monkeypatch.setattr(paths.path_manager, "_path_handlers", {"s3://": paths.S3Handler()})
    assert source_problem("s3://a/lists/train.csv") == ""
    for _ in range(2):
        for bucket in "ab":
            assert paths.local_path(f"s3://{bucket}/lists/train.csv").read_text() == bucket
    assert client.downloads == 2
    with pytest.raises(DownloadError, match="s3://a/none"):
        paths.local_path("s3://a/none")

    assert read_range("s3://b/lists/train.csv", 0, 9) == b"b"
    client.objects["a", "train.tar"] = bytes(range(100))
    assert read_range("s3://a/train.tar", 10, 13) == b"\x0a\x0b\x0c"
    client.breaks = 2
    assert read_range("s3://a/train.tar", 10, 13) == b"\x0a\x0b\x0c"
    assert file_status("s3://a/train.tar") == (100, '"4950"')
    with pytest.raises(FileNotFoundError, match="s3://a/none"):
        file_status("s3://a/none.tar")
    assert client.downloads == 2

    cfg = get_cfg()
    cfg.DATA.SPLITS_DIR = "s3://a/lists"
    client.objects["a", "lists/val.csv"] = b"v"
    assert (splits_folder(cfg) / "val.csv").read_text() == "v"
    del client.objects["a", "lists/train.csv"]
    assert [path.name for path in splits_folder(cfg).glob("*.csv")] == ["val.csv"]


def test_s3_without_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("boto3", "boto3.s3", "boto3.s3.transfer"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(paths.path_manager, "_path_handlers", {"s3://": paths.S3Handler()})
    with pytest.raises(DownloadError, match="boto3"):
        paths.local_path("s3://bucket/model.pyth")
