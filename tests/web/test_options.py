"""The command line, the loaded model, and the limits of uploads."""

import shutil
import socket
import stat
from pathlib import Path

import pytest

from timesformer.commands.app import main
from timesformer.errors import UserError
from timesformer.web.options import Options, parse
from timesformer.web.service import Service, file_states
from timesformer.web.uploads import find_examples, private_file


@pytest.mark.parametrize("line", ["--checkpoint", "--max-seconds 0", "--huh"])
def test_invalid_command_line_is_a_user_error(line: str) -> None:
    with pytest.raises(UserError, match=line.split()[0]):
        parse(line.split())


def test_run_folder_as_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    best = shutil.copy(checkpoint, tmp_path / "checkpoints" / "best.pyth")
    options = Options(checkpoint=str(tmp_path), device="cpu")
    assert Service.load(options).classifier.path == str(best)
    before = file_states(options)
    with best.open("ab") as file:
        file.write(b"more")
    changed = file_states(options)
    best.unlink()
    assert len({before, changed, file_states(options)}) == 3


def test_upload_is_a_private_file_that_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with private_file() as path:
        path.write_bytes(b"content")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(ZeroDivisionError), private_file():
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_find_examples(tmp_path: Path) -> None:
    (tmp_path / "wave").mkdir()
    for name in ("b.mp4", "wave/a.AVI", "notes.txt"):
        (tmp_path / name).touch()
    assert find_examples(tmp_path) == ["b.mp4", "wave/a.AVI"]
    with pytest.raises(UserError, match="absent"):
        find_examples(tmp_path / "absent")


def test_missing_model_ends_before_the_page_is_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("streamlit", reason="Streamlit is not installed: pip install -e '.[app]'")
    absent = tmp_path / "absent.pyth"
    assert main(["--checkpoint", str(absent)]) == 2
    assert str(absent) in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["--checkpoint", str(absent), "--port", port]) == 2
    assert port in capsys.readouterr().err
    assert main(["--checkpoint", str(absent), "--address", "192.0.2.1"]) == 2  # of no machine (RFC 5737)
    assert "--address 192.0.2.1" in capsys.readouterr().err


def test_url_of_an_ipv6_address(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bootstrap = pytest.importorskip("streamlit.web.bootstrap", reason="Streamlit is not installed")
    monkeypatch.setattr("timesformer.web.service.prepare", lambda options: None)

    def run(script: str, is_hello: bool, arguments: list[str], flags: dict[str, object]) -> None:
        bootstrap._print_url(is_hello)  # the last thing that Streamlit does when the server has started

    monkeypatch.setattr(bootstrap, "run", run)
    assert main(["--checkpoint", "best.pyth", "--address", "::1"]) == 0
    assert "http://[::1]:" in capsys.readouterr().out
