"""Fetching weights: whole or not at all, what was asked for, once, and going on where a connection broke."""

import hashlib
import re
import socket
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from timesformer.config.sources import ZOO
from timesformer.models import download
from timesformer.models.download import DownloadError, local_path
from timesformer.models.files import CheckpointError
from timesformer.models.weights import read_checkpoint


class Server(ThreadingHTTPServer):
    """Serves `files` by path, and breaks the connection after so many bytes of an answer where `breaks` says so.

    Attributes:
        files: content by path.
        breaks: number of bytes after which each of the next answers ends; taken off the front.
        etag: of all files; "" for none.
        asked: path and Range header of each GET so far.
        redirects: address by path.
        resumable: whether Range is heeded.
        content_type: of all files.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.breaks: list[int] = []
        self.etag = '"one"'
        self.asked: list[tuple[str, str | None]] = []
        self.redirects: dict[str, str] = {}
        self.resumable = True
        self.content_type = "application/octet-stream"

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.end_headers()
            return
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start, total = 0, len(content)
        if wanted and self.server.resumable and self.headers.get("If-Range") == self.server.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        if start >= total > 0 and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.send_header("Content-Type", self.server.content_type)
        self.send_header("Content-Length", str(total - start))
        self.end_headers()
        self.wfile.write(content[start : start + self.server.breaks.pop(0) if self.server.breaks else None])

    def log_message(self, *_: object) -> None:
        """Nothing: the test says what is wrong."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no proxy on the way to the server."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TIMESFORMER_CACHE", str(folder))
    monkeypatch.setenv("NO_PROXY", "*")
    return folder


CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def kept(cache: Path) -> list[str]:
    """What lies in the cache, but for the empty files that runs wait for each other at."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_a_file_is_fetched_once(server: Server, cache: Path) -> None:
    server.files["/some/model%20a.pyth?dl=1"] = CONTENT
    path = local_path(server.url("/some/model%20a.pyth?dl=1"))
    assert path.read_bytes() == CONTENT
    assert path.name.endswith("-model_a.pyth")
    assert local_path(server.url("/some/model%20a.pyth?dl=1")) == path
    assert len(server.asked) == 1
    assert kept(cache) == [path.name]


def test_files_of_one_name_at_two_places_are_kept_apart(server: Server) -> None:
    server.files |= {"/a/model.pyth": b"a" * 9, "/b/model.pyth": b"b" * 9}
    assert local_path(server.url("/a/model.pyth")).read_bytes() == b"a" * 9
    assert local_path(server.url("/b/model.pyth")).read_bytes() == b"b" * 9


def test_a_broken_connection_is_taken_up_where_it_broke(server: Server, cache: Path) -> None:
    server.files["/m"], server.breaks = CONTENT, [1000, 500]
    path = local_path(server.url(f"/m#sha256={SHA256}&size={len(CONTENT)}"))
    assert path.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=1000-", "bytes=1500-"]
    assert kept(cache) == [path.name]


def test_the_next_run_goes_on_where_one_gave_up(server: Server) -> None:
    server.files["/m"], server.breaks = CONTENT, [1000, 0, 0, 0]
    with pytest.raises(
        DownloadError, match="broke 3 times with nothing new after 1000 bytes; the same command goes on"
    ):
        local_path(server.url("/m"))
    server.asked.clear()
    assert local_path(server.url("/m")).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == ["bytes=1000-"]


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(server: Server) -> None:
    server.files["/m"], server.breaks = CONTENT, [1000, 0, 0, 0]
    with pytest.raises(DownloadError):
        local_path(server.url("/m"))
    server.files["/m"], server.etag = CONTENT[::-1], '"two"'
    assert local_path(server.url("/m")).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("lacking", ["etag", "resumable"])
def test_a_server_that_cannot_go_on_is_asked_from_the_start(server: Server, lacking: str) -> None:
    server.files["/m"], server.breaks = CONTENT, [1000]
    setattr(server, lacking, "" if lacking == "etag" else False)
    assert local_path(server.url("/m")).read_bytes() == CONTENT


def test_all_that_was_left_is_the_name(server: Server, cache: Path) -> None:
    server.files["/m"] = CONTENT
    path = local_path(server.url("/m"))  # as if the machine stopped between the last byte and the renaming
    path.rename(f"{path}.partial")
    Path(f"{path}.partial.etag").write_text('"one"')
    assert local_path(server.url("/m")).read_bytes() == CONTENT
    assert kept(cache) == [path.name]


class TestWhatIsNotAsItShouldBe:
    @pytest.mark.parametrize(
        ("expectation", "problem"),
        [
            (f"sha256={'0' * 64}", f"the file has SHA-256 {SHA256}, expected 0000"),
            ("size=77", f"has {len(CONTENT)} bytes, expected 77"),
        ],
    )
    def test_another_file_than_the_one_meant_is_thrown_away(
        self, server: Server, cache: Path, expectation: str, problem: str
    ) -> None:
        server.files["/m"] = CONTENT
        with pytest.raises(DownloadError, match=problem):
            local_path(server.url(f"/m#{expectation}"))
        assert kept(cache) == []

    def test_a_kept_file_is_held_against_the_sum_too(self, server: Server) -> None:
        server.files["/m"] = CONTENT
        path = local_path(server.url("/m"))
        with pytest.raises(DownloadError, match=rf"It lies in {path}; remove it to fetch it anew"):
            local_path(server.url(f"/m#sha256={'0' * 64}"))

    @pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
    def test_a_web_page_is_no_file(self, server: Server, cache: Path, content_type: str) -> None:
        server.files["/m"], server.content_type = b"\n<!DOCTYPE html><html>Sign in</html>", content_type
        with pytest.raises(DownloadError, match="answers with a web page in place of a file"):
            local_path(server.url("/m"))
        assert kept(cache) == []

    def test_a_missing_file_is_named_with_the_answer(self, server: Server) -> None:
        with pytest.raises(DownloadError, match=r"/none answers 404 Not Found; check the address"):
            local_path(server.url("/none"))

    def test_no_network_names_the_way_round(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(
            DownloadError, match=r"cannot be reached: .*On a machine without network, fetch it elsewhere"
        ):
            local_path(f"http://127.0.0.1:{port}/m")

    def test_a_way_that_leaves_https_is_not_followed(self, server: Server) -> None:
        server.redirects["/m"] = "http://example.invalid/m"
        with pytest.raises(DownloadError, match=r"leads to http://example\.invalid/m, which is not https"):
            local_path(server.url("/m"))

    def test_a_way_on_this_machine_is_followed(self, server: Server) -> None:
        server.redirects["/m"], server.files["/n"] = server.url("/n"), CONTENT
        assert local_path(server.url("/m")).read_bytes() == CONTENT

    def test_a_name_that_makes_no_sense_is_refused_before_anything_is_asked(self) -> None:
        with pytest.raises(DownloadError, match="expected an https:// URL"):
            local_path("http://example.invalid/m")
        with pytest.raises(DownloadError, match="the nearest is TimeSformer_divST_8x32_224_K400"):
            local_path("zoo:TimeSformer_8x32_224_K400")

    def test_a_cache_that_cannot_be_written_is_named(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("TIMESFORMER_CACHE", str(tmp_path / "file"))
        with pytest.raises(DownloadError, match="set TIMESFORMER_CACHE to a folder"):
            local_path(server.url("/m"))


class TestReading:
    @pytest.mark.parametrize("path", ["folder/model.pyth", "hf", "zoo"])
    def test_a_path_is_taken_as_it_is(self, path: str) -> None:
        assert local_path(path) == Path(path)

    def test_a_checkpoint_is_read_from_a_url(self, server: Server, tmp_path: Path) -> None:
        torch.save({"model_state": {"model.norm.weight": torch.ones(3)}, "epoch": 7}, tmp_path / "m")
        server.files["/m"] = (tmp_path / "m").read_bytes()
        checkpoint = read_checkpoint(server.url("/m"))
        assert list(checkpoint.state) == ["norm.weight"]
        assert checkpoint.rest == {"epoch": 7}

    def test_a_released_model_is_fetched_by_name_with_its_licence(
        self, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        name = "TimeSformer_divST_16_448_SSv2"
        asked = []
        monkeypatch.setattr(download, "_fetch", lambda url: asked.append(url) or Path("x"))
        assert local_path(f"zoo:{name}") == Path("x")
        assert asked == [ZOO[name].url]
        assert "16 frames of 448 x 448; published top-1 61.8 %, top-5 86.9 %; licence CC-BY-NC" in caplog.text


class TestHub:
    """The client of the hub is a library with tests of its own; here it is replaced at its door."""

    @pytest.fixture
    def hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
        """Files by repository; each holds one tensor that says which it is from."""
        client = pytest.importorskip("huggingface_hub")
        repositories: dict[str, list[str]] = {}

        def snapshot_download(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
            if repository not in repositories:
                raise client.errors.LocalEntryNotFoundError("no outgoing traffic\n and not in the cache")
            folder = tmp_path / "hub" / repository.replace("/", "--") / (revision or "main")
            folder.mkdir(parents=True, exist_ok=True)
            for file in repositories[repository]:
                if any(Path(file).match(pattern) for pattern in allow_patterns):
                    if file == "config.json":
                        (folder / file).write_text('{"num_attention_heads": 3}')
                    else:
                        torch.save({f"from {file}": torch.ones(1)}, folder / file)
            return str(folder)

        monkeypatch.setattr(client, "snapshot_download", snapshot_download)
        return repositories

    def test_a_model_is_read_with_its_configuration(self, hub: dict[str, list[str]]) -> None:
        hub["owner/name"] = ["config.json", "model.safetensors", "pytorch_model.bin", "README.md"]
        checkpoint = read_checkpoint("hf:owner/name@v1")
        assert list(checkpoint.state) == ["from model.safetensors"]
        assert checkpoint.facts.num_heads == 3

    def test_older_weights_are_taken_where_there_are_no_safetensors(self, hub: dict[str, list[str]]) -> None:
        hub["owner/name"] = ["config.json", "pytorch_model.bin"]
        assert list(read_checkpoint("hf:owner/name").state) == ["from pytorch_model.bin"]

    def test_timm_models_are_those_of_its_place_on_the_hub(self, hub: dict[str, list[str]]) -> None:
        hub["timm/vit_base_patch16_224.augreg_in21k"] = ["config.json", "pytorch_model.bin"]
        assert read_checkpoint("timm:vit_base_patch16_224.augreg_in21k").state

    def test_a_model_without_weights_is_refused(self, hub: dict[str, list[str]]) -> None:
        hub["owner/name"] = ["config.json", "tf_model.h5"]
        with pytest.raises(DownloadError, match=r"owner/name on the Hugging Face hub has no weights for PyTorch"):
            read_checkpoint("hf:owner/name")

    def test_no_network_names_the_way_round(self, hub: dict[str, list[str]]) -> None:
        with pytest.raises(DownloadError, match=r"no outgoing traffic and .*run `hf download owner/name --local-dir"):
            read_checkpoint("hf:owner/name")


def test_a_damaged_download_is_an_error_of_the_file(server: Server) -> None:
    server.files["/m"] = CONTENT
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_checkpoint(server.url("/m"))
