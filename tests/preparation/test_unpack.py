"""Unpacking archives: complete or not at all, never outside the folder, and rars in a rar."""

import io
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rar import LINK, rar
from timesformer.datasets.records import DataError
from timesformer.preparation import unpack as module
from timesformer.preparation.unpack import unpack


def zipped(files: dict[str, bytes], mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def write(folder: Path, content: bytes) -> Path:
    (folder / "archive").write_bytes(content)
    return folder / "archive"


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("pack", [zipped, rar])
@pytest.mark.parametrize("outer", ["", "UCF-101/"])
def test_outer_folder_is_left_out(tmp_path: Path, pack: Callable[..., bytes], outer: str) -> None:
    content = {"a/x.avi": b"x" * 999, "a/with blank.avi": b"", "b/y.avi": b"y"}
    packed = pack({outer + name: data for name, data in content.items()} | {"__MACOSX/UCF-101/a/._x": b""})
    (tmp_path / ".videos.partial").mkdir()  # of an interrupted call
    (tmp_path / ".videos.partial/rest").touch()
    unpack(write(tmp_path, packed), tmp_path / "videos")
    found = files_in(tmp_path / "videos")
    assert {name: data for name, data in found.items() if not name.startswith("__MACOSX")} == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "videos"]


def test_rars_in_a_rar_become_folders(tmp_path: Path) -> None:
    content = {"wave/w1.avi": b"1", "wave/w2.avi": b"2"}
    archive = rar({"wave.rar": rar(content), "._wave.rar": b"macOS", "bike.rar": rar({"bike/b.avi": b"3"})})
    unpack(write(tmp_path, archive), tmp_path / "videos")
    assert files_in(tmp_path / "videos") == content | {"bike/b.avi": b"3", "._wave.rar": b"macOS"}


@pytest.mark.parametrize("pack", [zipped, rar])
@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "..\\x", "C:/x"])
def test_names_that_lead_out_are_refused(tmp_path: Path, pack: Callable[..., bytes], name: str) -> None:
    with pytest.raises(DataError, match="archive"):
        unpack(write(tmp_path, pack({"good": b"", name: b"bad"})), tmp_path / "in/videos")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["archive", "in"]


def test_links_are_not_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="archive"):
        unpack(write(tmp_path, rar({"link": b"/etc"}, LINK)), tmp_path / "videos")
    assert not (tmp_path / "videos").exists()
    unpack(write(tmp_path, zipped({"link": b"/etc"}, stat.S_IFLNK | 0o777)), tmp_path / "videos")
    assert not (tmp_path / "videos/link").is_symlink()


@pytest.mark.parametrize("pack", [zipped, rar, None])
def test_damaged_archives_leave_nothing(tmp_path: Path, pack: Callable[..., bytes] | None) -> None:
    content = bytearray(pack({"a": b"a" * 99, "b": bytes(range(256)) * 9}) if pack else b"no archive")
    content[len(content) // 2] ^= 255
    with pytest.raises(DataError, match="archive"):
        unpack(write(tmp_path, bytes(content)), tmp_path / "videos")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


PACKED = {"v/a.avi": b"a" * 50, "v/b.avi": b"b"}


def test_tools_are_tried_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/bin:/usr/bin")
    monkeypatch.setattr(module, "TOOLS", {})
    path = write(tmp_path, rar(PACKED, packed=True))
    scripts = {
        "fails": 'touch "$2/rest"; exit 3',
        "forgets": 'mkdir "$2/v"; printf b > "$2/v/b.avi"',
        "works": f'mkdir "$2/v"; printf {"a" * 50} > "$2/v/a.avi"; printf b > "$2/v/b.avi"',
    }
    for name, script in scripts.items():
        with pytest.raises(DataError, match="unrar"):
            unpack(path, tmp_path / "videos")
        assert not (tmp_path / "videos").exists()
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
        module.TOOLS[name] = (name, "{archive}", "{folder}")
    unpack(path, tmp_path / "videos")
    assert files_in(tmp_path / "videos") == {"a.avi": b"a" * 50, "b.avi": b"b"}


@pytest.mark.parametrize("name", module.TOOLS)
def test_installed_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    monkeypatch.setattr(module, "TOOLS", {name: module.TOOLS[name]})
    monkeypatch.setattr(module.rarfile, "RAR_M0", -1)  # stored entries count as packed
    unpack(write(tmp_path, rar(PACKED)), tmp_path / "out put")
    assert files_in(tmp_path / "out put") == {"a.avi": b"a" * 50, "b.avi": b"b"}
