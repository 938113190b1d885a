"""The page's command line."""

import shutil
from pathlib import Path
from types import ModuleType

import pytest

from timesformer.errors import UserError
from timesformer.inference.classifier import load_model
from timesformer.web.options import Options, parse
from timesformer.web.service import Service, state_of
from timesformer.web.uploads import Limits


def test_options_and_limits_come_from_the_command_line() -> None:
    line = "--checkpoint a.pyth --fallback b.pyth --fallback-cfg b.yaml --examples clips --device cpu --max-megabytes 7"
    expected = Options("a.pyth", "b.pyth", "", "b.yaml", Path("clips"), "cpu", Limits(megabytes=7))
    assert parse(line.split()) == expected
    assert parse([]) == Options()


@pytest.mark.parametrize("line", ["--checkpoint", "--max-seconds 0", "--max-seconds nan", "--max-pixels much", "--huh"])
def test_a_command_line_that_makes_no_sense_says_so_without_ending_the_server(line: str) -> None:
    with pytest.raises(UserError, match=r"(?s)--.*usage: tools/app.py"):
        parse(line.split())


def test_without_any_model_the_page_tells_how_to_give_one() -> None:
    with pytest.raises(UserError, match=r"streamlit run tools/app.py -- --checkpoint"):
        Service.load(Options())


def test_a_checkpoint_that_appears_or_changes_is_noticed(tmp_path: Path) -> None:
    options = Options(checkpoint=str(tmp_path / "best.pyth"))
    absent = state_of(options)
    (tmp_path / "best.pyth").write_bytes(b"one")
    one = state_of(options)
    (tmp_path / "best.pyth").write_bytes(b"another")
    assert len({absent, one, state_of(options)}) == 3


def test_the_folder_of_a_run_is_a_checkpoint_whose_change_is_noticed(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    best = shutil.copy(checkpoint, tmp_path / "checkpoints" / "best.pyth")
    options = Options(checkpoint=str(tmp_path), device="cpu")
    assert Service.load(options).classifier.path == str(best)
    before = state_of(options)
    with best.open("ab") as file:
        file.write(b"more")
    assert state_of(options) != before


def test_a_folder_of_hugging_face_is_a_checkpoint(tmp_path: Path, checkpoint: Path, converter: ModuleType) -> None:
    converter.convert(str(checkpoint), tmp_path / "hf", "hf", None, None)
    options = Options(checkpoint=str(tmp_path / "hf"), device="cpu")
    classifier = Service.load(options).classifier
    assert classifier.fingerprint() == load_model(checkpoint, "cpu").fingerprint()
    assert classifier.cfg.DATA.TEST_CROP_SIZE == load_model(checkpoint, "cpu").cfg.DATA.TEST_CROP_SIZE
