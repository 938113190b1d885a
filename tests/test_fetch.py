"""Fetching a file: whole or not at all, what was asked for, once, and going on where a connection broke."""

import hashlib
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
    """bring(path): the content that came from this path of the server, fetched to a file `m`."""

    def bring(path: str) -> bytes:
        fetch(server.url(path), folder / "m", "Bring it by hand", "choose another disk")
        return (folder / "m").read_bytes()

    return bring


def kept(folder: Path) -> list[str]:
    """What lies in the folder, but for the empty file that processes wait for each other at."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_file_is_fetched_once_also_by_many_at_the_same_time(
    server: Server, folder: Path, bring: Callable[[str], bytes]
) -> None:
    server.files["/m"] = CONTENT
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(bring, ["/m"] * 8)) == {CONTENT}
    assert len(server.asked) == 1
    assert kept(folder) == ["m"]


def test_a_broken_connection_is_taken_up_where_it_broke(
    server: Server, folder: Path, bring: Callable[[str], bytes]
) -> None:
    server.files["/m"], server.breaks = CONTENT, [1000, 500]
    assert bring(f"/m#sha256={SHA256}&md5={MD5}&size={len(CONTENT)}") == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=1000-", "bytes=1500-"]
    assert kept(folder) == ["m"]


def test_the_next_run_goes_on_where_one_gave_up(server: Server, bring: Callable[[str], bytes]) -> None:
    server.files["/m"], server.breaks = CONTENT, [1000, 0, 0, 0]
    with pytest.raises(
        DownloadError, match="broke 3 times with nothing new after 1000 bytes; the same command goes on"
    ):
        bring("/m")
    server.asked.clear()
    assert bring("/m") == CONTENT
    assert [wanted for _, wanted in server.asked] == ["bytes=1000-"]


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(server: Server, bring: Callable[[str], bytes]) -> None:
    server.files["/m"], server.breaks = CONTENT, [1000, 0, 0, 0]
    with pytest.raises(DownloadError):
        bring("/m")
    server.files["/m"], server.etag = CONTENT[::-1], '"two"'
    assert bring("/m") == CONTENT[::-1]


@pytest.mark.parametrize("lacking", ["etag", "resumable"])
def test_a_server_that_cannot_go_on_is_asked_from_the_start(
    server: Server, lacking: str, bring: Callable[[str], bytes]
) -> None:
    server.files["/m"], server.breaks = CONTENT, [1000]
    setattr(server, lacking, "" if lacking == "etag" else False)
    assert bring("/m") == CONTENT


def test_a_mark_that_is_weak_gives_way_to_the_time_of_the_change(server: Server, bring: Callable[[str], bytes]) -> None:
    server.files["/m"], server.breaks = CONTENT, [1000, 500]
    server.etag, server.last_modified = 'W/"one"', "Fri, 06 Nov 2015 10:00:00 GMT"
    assert bring("/m") == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=1000-", "bytes=1500-"]


def test_a_length_that_is_no_number_is_none(server: Server, bring: Callable[[str], bytes]) -> None:
    server.files["/m"], server.length = CONTENT, "abc"
    assert bring("/m") == CONTENT


@pytest.mark.parametrize(
    ("status", "content", "problem"),
    [(204, b"", "answers 204 No Content"), (206, CONTENT, "answers 206"), (200, b"", "answers with no bytes")],
)
def test_an_answer_without_the_file_is_refused(
    server: Server, folder: Path, status: int, content: bytes, problem: str, bring: Callable[[str], bytes]
) -> None:
    server.files["/m"], server.status = content, status
    with pytest.raises(DownloadError, match=f"/m {problem}.*, expected the file; check the address. Bring it by hand"):
        bring("/m")
    assert not (folder / "m").exists()


def test_all_that_was_left_is_the_name(server: Server, folder: Path, bring: Callable[[str], bytes]) -> None:
    server.files["/m"] = CONTENT
    folder.mkdir()  # as if the machine stopped between the last byte and the renaming
    (folder / "m.partial").write_bytes(CONTENT)
    (folder / "m.partial.etag").write_text('"one"')
    assert bring("/m") == CONTENT
    assert kept(folder) == ["m"]
    assert [wanted for _, wanted in server.asked] == [f"bytes={len(CONTENT)}-"]


def test_without_a_terminal_progress_is_plain_lines(
    server: Server, bring: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("timesformer.progress.LINE_EVERY", 0)
    server.files["/m"], server.breaks = CONTENT, [5120]
    bring("/m")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("m:  50% 5.12k/10.2k [00:00<")
    assert lines[-1].startswith("m: 100% 10.2k/10.2k [00:00<")
    assert "B/s]" in lines[-1]


@pytest.mark.parametrize(
    ("expectation", "problem"),
    [
        (f"sha256={'0' * 64}", f"the file has SHA-256 {SHA256}, expected 0000"),
        (f"md5={'0' * 32}", f"the file has MD5 {MD5}, expected 0000"),
        ("size=77", f"has {len(CONTENT)} bytes, expected 77"),
    ],
)
def test_another_file_than_the_one_meant_is_thrown_away(
    server: Server, folder: Path, expectation: str, problem: str, bring: Callable[[str], bytes]
) -> None:
    server.files["/m"] = CONTENT
    with pytest.raises(DownloadError, match=problem):
        bring(f"/m#{expectation}")
    assert kept(folder) == []


def test_a_kept_file_is_held_against_the_sum_too(server: Server, folder: Path, bring: Callable[[str], bytes]) -> None:
    server.files["/m"] = CONTENT
    bring("/m")
    with pytest.raises(DownloadError, match=rf"It lies in {folder / 'm'}; remove it to fetch it anew"):
        bring(f"/m#sha256={'0' * 64}")


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_no_file(server: Server, folder: Path, content_type: str, bring: Callable[[str], bytes]) -> None:
    server.files["/m"], server.content_type = b"\n<!DOCTYPE html><html>Sign in</html>", content_type
    with pytest.raises(DownloadError, match="answers with a web page in place of a file"):
        bring("/m")
    assert kept(folder) == []


def test_a_missing_file_is_named_with_the_answer(bring: Callable[[str], bytes]) -> None:
    with pytest.raises(DownloadError, match=r"/none answers 404 Not Found; check the address. Bring it by hand"):
        bring("/none")


def test_no_network_names_the_way_round(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=r"cannot be reached: .*refused. Bring it by hand"):
        fetch(f"http://127.0.0.1:{port}/m", folder / "m", "Bring it by hand")


def test_a_way_that_leaves_https_is_not_followed(server: Server, bring: Callable[[str], bytes]) -> None:
    server.redirects["/m"] = "http://example.invalid/m"
    with pytest.raises(DownloadError, match=r"leads to http://example\.invalid/m, which is not https"):
        bring("/m")


def test_a_way_on_this_machine_is_followed(server: Server, bring: Callable[[str], bytes]) -> None:
    server.redirects["/m"], server.files["/n"] = server.url("/n"), CONTENT
    assert bring("/m") == CONTENT


def test_an_address_that_makes_no_sense_is_refused_before_anything_is_asked(folder: Path) -> None:
    with pytest.raises(DownloadError, match=r"http://example\.invalid/m is no address .*: expected an https:// URL"):
        fetch("http://example.invalid/m", folder / "m", "")


def test_a_folder_that_cannot_be_written_is_named(server: Server, folder: Path, bring: Callable[[str], bytes]) -> None:
    folder.touch()
    with pytest.raises(
        DownloadError, match=rf"{folder / 'm'} could not be written: .*; make room, or choose another d"
    ):
        bring("/m")
