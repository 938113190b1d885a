"""The page's command line."""

from pathlib import Path

import pytest

from timesformer.errors import UserError
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
