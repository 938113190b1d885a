"""Downloads: complete or absent, verified, once, and resumed."""

import hashlib
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.loopback import Server
from timesformer.fetch import DownloadError, fetch

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "downloads"


@pytest.fixture
def bring(server: Server, folder: Path) -> Callable[[str], bytes]:
    """bring(path): downloads this path of the server to the file `m`, and returns its content."""

    def bring(path: str) -> bytes:
        fetch(server.url(path), folder / "m", "Bring it by hand", "choose another disk")
        return (folder / "m").read_bytes()

    return bring


def kept(folder: Path) -> list[str]:
    """Names in the folder, without the lock file."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_concurrent_downloads_are_one(server: Server, folder: Path, bring: Callable[[str], bytes]) -> None:
    server.files["/m"] = CONTENT
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(bring, ["/m"] * 8)) == {CONTENT}
    assert len(server.asked) == 1
    assert kept(folder) == ["m"]


def test_broken_connection_is_resumed(server: Server, folder: Path, bring: Callable[[str], bytes]) -> None:
    server.files["/m"], server.breaks = CONTENT, [1000, 500]
    assert bring(f"/m#sha256={SHA256}&md5={MD5}&size={len(CONTENT)}") == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=1000-", "bytes=1500-"]
    assert kept(folder) == ["m"]


def test_next_run_resumes(server: Server, bring: Callable[[str], bytes]) -> None:
    server.files["/m"], server.breaks = CONTENT, [1000, 0, 0, 0]
    with pytest.raises(DownloadError, match="/m"):
        bring("/m")
    server.asked.clear()
    assert bring("/m") == CONTENT
    assert [wanted for _, wanted in server.asked] == ["bytes=1000-"]


def test_changed_file_is_downloaded_again(server: Server, bring: Callable[[str], bytes]) -> None:
    server.files["/m"], server.breaks = CONTENT, [1000, 0, 0, 0]
    with pytest.raises(DownloadError):
        bring("/m")
    server.files["/m"], server.etag = CONTENT[::-1], '"two"'
    assert bring("/m") == CONTENT[::-1]


@pytest.mark.parametrize("lacking", ["etag", "resumable"])
def test_server_without_resuming(server: Server, lacking: str, bring: Callable[[str], bytes]) -> None:
    server.files["/m"], server.breaks = CONTENT, [1000]
    setattr(server, lacking, "" if lacking == "etag" else False)
    assert bring("/m") == CONTENT


@pytest.mark.parametrize(("status", "content"), [(204, b""), (206, CONTENT), (200, b"")])
def test_answer_without_the_file(
    server: Server, folder: Path, status: int, content: bytes, bring: Callable[[str], bytes]
) -> None:
    server.files["/m"], server.status = content, status
    with pytest.raises(DownloadError, match="/m"):
        bring("/m")
    assert not (folder / "m").exists()


def test_complete_partial_file(server: Server, folder: Path, bring: Callable[[str], bytes]) -> None:
    server.files["/m"] = CONTENT
    folder.mkdir()  # as if the machine stopped before the renaming
    (folder / "m.partial").write_bytes(CONTENT)
    (folder / "m.partial.etag").write_text('"one"')
    assert bring("/m") == CONTENT
    assert kept(folder) == ["m"]
    assert [wanted for _, wanted in server.asked] == [f"bytes={len(CONTENT)}-"]


def test_progress_without_terminal(
    server: Server, bring: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("timesformer.progress.LINE_EVERY", 0)
    server.files["/m"], server.breaks = CONTENT, [5120]
    bring("/m")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("m:  50% 5.12k/10.2k [")
    assert re.fullmatch(r"m: 100% 10\.2k/10\.2k \[\d\d:\d\d<00:00, .*B/s\]", lines[-1])


@pytest.mark.parametrize(
    ("expectation", "found"),
    [(f"sha256={'0' * 64}", SHA256), (f"md5={'0' * 32}", MD5), ("size=77", str(len(CONTENT)))],
)
def test_unexpected_file_is_discarded(
    server: Server, folder: Path, expectation: str, found: str, bring: Callable[[str], bytes]
) -> None:
    server.files["/m"] = CONTENT
    with pytest.raises(DownloadError, match=found):
        bring(f"/m#{expectation}")
    assert kept(folder) == []


def test_existing_file_is_verified(server: Server, folder: Path, bring: Callable[[str], bytes]) -> None:
    server.files["/m"] = CONTENT
    bring("/m")
    with pytest.raises(DownloadError, match=str(folder / "m")):
        bring(f"/m#sha256={'0' * 64}")


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_web_page_is_refused(server: Server, folder: Path, content_type: str, bring: Callable[[str], bytes]) -> None:
    server.files["/m"], server.content_type = b"\n<!DOCTYPE html><html>Sign in</html>", content_type
    with pytest.raises(DownloadError, match="/m"):
        bring("/m")
    assert kept(folder) == []


def test_missing_file(bring: Callable[[str], bytes]) -> None:
    with pytest.raises(DownloadError, match=r"/none.*404"):
        bring("/none")


def test_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/m"
    with pytest.raises(DownloadError, match=url):
        fetch(url, folder / "m", "")


def test_redirects(server: Server, folder: Path, bring: Callable[[str], bytes]) -> None:
    server.redirects |= {"/m": server.url("/n"), "/away": "http://example.invalid/m"}
    server.files["/n"] = CONTENT
    assert bring("/m") == CONTENT
    with pytest.raises(DownloadError, match=r"http://example\.invalid/m"):
        fetch(server.url("/away"), folder / "away", "")


def test_folder_that_cannot_be_written(server: Server, folder: Path, bring: Callable[[str], bytes]) -> None:
    folder.touch()
    with pytest.raises(DownloadError, match=str(folder / "m")):
        bring("/m")
