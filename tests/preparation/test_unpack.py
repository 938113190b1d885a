"""Unpacking archives: whole or not at all, nowhere else, rars within rars, and what is said where it cannot be done."""

import io
import shutil
import stat
import subprocess
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


@pytest.fixture
def archive(tmp_path: Path) -> Callable[[bytes], Path]:
    """archive(bytes): a file of them."""

    def write(content: bytes) -> Path:
        (tmp_path / "archive").write_bytes(content)
        return tmp_path / "archive"

    return write


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("pack", [zipped, rar])
@pytest.mark.parametrize("outer", ["", "UCF-101/"])
def test_an_archive_becomes_a_folder_with_or_without_one_in_it(
    tmp_path: Path, archive: Callable[[bytes], Path], pack: Callable[..., bytes], outer: str
) -> None:
    content = {"a/x.avi": b"x" * 999, "a/with blank.avi": b"", "b/y.avi": b"y"}
    unpack(archive(pack({outer + name: data for name, data in content.items()})), tmp_path / "videos")
    assert files_in(tmp_path / "videos") == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "videos"]


def test_rars_in_a_rar_become_folders(tmp_path: Path, archive: Callable[[bytes], Path]) -> None:
    one = rar({"wave/w1.avi": b"1", "wave/w2.avi": b"2"})
    unpack(archive(rar({"wave.rar": one, "ride_bike.rar": rar({"ride_bike/b.avi": b"3"})})), tmp_path / "videos")
    assert files_in(tmp_path / "videos") == {"wave/w1.avi": b"1", "wave/w2.avi": b"2", "ride_bike/b.avi": b"3"}


def test_a_single_class_is_not_taken_for_the_outer_folder(tmp_path: Path, archive: Callable[[bytes], Path]) -> None:
    unpack(archive(rar({"wave.rar": rar({"wave/w.avi": b"1"})})), tmp_path / "videos")
    assert files_in(tmp_path / "videos") == {"wave/w.avi": b"1"}


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    unpack(tmp_path / "no such archive", tmp_path / "videos")
    assert files_in(tmp_path / "videos") == {}


@pytest.mark.parametrize("pack", [zipped, rar])
@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "..\\x", "C:/x"])
def test_names_that_lead_elsewhere_are_refused(
    tmp_path: Path, archive: Callable[[bytes], Path], pack: Callable[..., bytes], name: str
) -> None:
    with pytest.raises(DataError, match="leads out of the folder"):
        unpack(archive(pack({"good": b"", name: b"bad"})), tmp_path / "in/videos")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["archive", "in"]


@pytest.mark.parametrize("content", [zipped({"l": b"/etc"}, stat.S_IFLNK | 0o777), rar({"l": b"/etc"}, LINK)])
def test_links_are_refused(tmp_path: Path, archive: Callable[[bytes], Path], content: bytes) -> None:
    with pytest.raises(DataError, match=r"archive:\n  l: a link\nexpected plain files"):
        unpack(archive(content), tmp_path / "videos")


@pytest.mark.parametrize("pack", [zipped, rar])
def test_a_damaged_archive_is_named_and_nothing_is_left(
    tmp_path: Path, archive: Callable[[bytes], Path], pack: Callable[..., bytes]
) -> None:
    content = bytearray(pack({"a": b"a" * 99, "b": bytes(range(256)) * 9}))
    content[len(content) // 2] ^= 255
    with pytest.raises(DataError, match=r"archive is damaged .*download it again"):
        unpack(archive(bytes(content)), tmp_path / "videos")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]
    with pytest.raises(DataError, match="neither a zip nor a rar"):
        unpack(archive(b"text"), tmp_path / "videos")


def test_an_interrupted_unpacking_begins_anew(
    tmp_path: Path, archive: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive(rar({"a": b"1", "b": b"2"}))
    copy = module._copy

    def interrupted(*arguments: object) -> None:
        copy(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack(path, tmp_path / "videos")
    assert not (tmp_path / "videos").exists()
    monkeypatch.setattr(module, "_copy", copy)
    (tmp_path / ".videos.partial").mkdir()  # as after a power cut
    (tmp_path / ".videos.partial/rest").touch()
    unpack(path, tmp_path / "videos")
    assert files_in(tmp_path / "videos") == {"a": b"1", "b": b"2"}


class TestPacked:
    """The compression of rar is not free, so the programs that know it are replaced here."""

    CONTENT: dict[str, bytes] = {"v/a.avi": b"a" * 50, "v/b.avi": b"b"}  # noqa: RUF012

    @pytest.fixture
    def programs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
        """programs(name, script): a program of this name, which gets an archive and a folder as $1 and $2."""
        folder = tmp_path / "bin"
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
        tools: dict[str, tuple[str, ...]] = {}
        monkeypatch.setattr(module, "TOOLS", tools)

        def make(name: str, script: str) -> None:
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
            tools[name] = (name, "{archive}", "{folder}")

        return make

    def test_the_programs_are_tried_until_one_makes_every_file(
        self, tmp_path: Path, archive: Callable[[bytes], Path], programs: Callable[[str, str], None]
    ) -> None:
        programs("fails", 'touch "$2/rest"; echo no; exit 3')
        programs("forgets", 'mkdir "$2/v"; printf b > "$2/v/b.avi"')
        programs("works", f'mkdir "$2/v"; printf {"a" * 50} > "$2/v/a.avi"; printf b > "$2/v/b.avi"')
        unpack(archive(rar(self.CONTENT, packed=True)), tmp_path / "videos")
        assert files_in(tmp_path / "videos") == {"a.avi": b"a" * 50, "b.avi": b"b"}

    def test_where_all_fail_what_each_said_is_told(
        self, tmp_path: Path, archive: Callable[[bytes], Path], programs: Callable[[str, str], None]
    ) -> None:
        programs("fails", "echo method unknown; exit 3")
        programs("forgets", 'mkdir "$2/v"; printf b > "$2/v/b.avi"')
        with pytest.raises(
            DataError,
            match=r"fails: stopped with status 3 \(method unknown\)\n  forgets: left out v/a.avi \(nothing said\)\n.*"
            r"install one that can",
        ):
            unpack(archive(rar(self.CONTENT, packed=True)), tmp_path / "videos")
        assert not (tmp_path / "videos").exists()

    def test_without_a_program_the_packages_are_named(
        self, tmp_path: Path, archive: Callable[[bytes], Path], programs: Callable[[str, str], None]
    ) -> None:
        with pytest.raises(
            DataError, match=rf"none of the programs .*`apt-get install unrar`.*by hand to {tmp_path}/videos"
        ):
            unpack(archive(rar(self.CONTENT, packed=True)), tmp_path / "videos")

    @pytest.mark.parametrize("name", module.TOOLS)
    def test_a_program_that_is_installed_unpacks(
        self, tmp_path: Path, archive: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        if not shutil.which(name):
            pytest.skip(f"{name} is not installed")
        if name.startswith("7") and b"Rar" not in subprocess.run([name, "i"], capture_output=True).stdout:
            pytest.skip(f"{name} is installed without its part for rar")
        monkeypatch.setattr(module, "TOOLS", {name: module.TOOLS[name]})
        path, folder = archive(rar(self.CONTENT)), tmp_path / "out put"
        folder.mkdir()
        path = path.rename(tmp_path / "with blank.rar")
        entries = [module._Entry(name, len(content)) for name, content in self.CONTENT.items()]
        module._run_tools(path, entries, folder, folder)
        assert files_in(folder) == self.CONTENT
