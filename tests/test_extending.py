"""The examples of docs/extending.md, run as users would: modules of their own, loaded by --import."""

import csv
import os
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from tests.conftest import ROOT
from timesformer.config.imports import import_modules
from timesformer.errors import UserError

PAGE = (ROOT / "docs" / "extending.md").read_text()
EXAMPLES = dict(re.findall(r"^## An? (\w+)\n.*?```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
OPTIONS = {
    **{"TRAIN.DATASET": "sports", "TEST.DATASET": "sports", "MODEL.MODEL_NAME": "FrameMean", "DATA.SAMPLER": "middle"},
    **{"DATA.EDGE_FRACTION": "0.2", "DATA.TRANSFORMS": "['reverse_time']", "TEST.REPORT": "True"},
}


@pytest.fixture
def folder(tmp_path: Path, tiny_data: Path) -> Path:
    """A folder with a module for each example, and the dataset that the page describes."""
    for name, code in EXAMPLES.items():
        (tmp_path / f"my_{name}.py").write_text(code)
    classes = sorted(path.name for path in (tiny_data / "train").iterdir())
    (tmp_path / "classes.txt").write_text("\n".join(classes))
    for split in ("train", "val", "test"):
        with open(tmp_path / f"{split}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["file", "sport"])
            rows.writerows([clip, clip.parent.name] for clip in sorted((tiny_data / split).glob("*/*")))
    return tmp_path


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a tool in the folder of the modules."""
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_every_section_has_an_example() -> None:
    assert set(EXAMPLES) == {"option", "sampler", "dataset", "model", "transform", "chart"}


@pytest.mark.slow
def test_examples_train_test_report_and_predict(folder: Path, tiny_command: list[str]) -> None:
    imports = [word for name in EXAMPLES for word in ("--import", f"my_{name}")]
    options = {**OPTIONS, "DATA.PATH_TO_DATA_DIR": folder, "OUTPUT_DIR": folder / "run"}
    done = run(folder, ROOT / "tools/run_net.py", *imports, *tiny_command, *chain(*options.items()))
    assert done.returncode == 0, done.stderr
    with open(folder / "run/predictions.csv", newline="") as file:
        videos = {row["video"] for row in csv.DictReader(file)}
    with open(folder / "test.csv", newline="") as file:
        assert videos == {row["file"] for row in csv.DictReader(file)}
    assert "Confidence" in (folder / "run/report.html").read_text()
    assert "my_sampler" in (folder / "run/config.yaml").read_text()

    predict = [ROOT / "tools/predict.py", "--checkpoint", folder / "run/checkpoints/best.pyth", *sorted(videos)[:1]]
    assert run(folder, *predict).returncode == 2  # a checkpoint imports nothing by itself
    predicted = run(folder, *predict, *imports, "--device", "cpu", "--workers", "0")
    assert predicted.returncode == 0, predicted.stderr
    classes = (folder / "classes.txt").read_text().split()
    assert any(name in predicted.stdout for name in classes)


def test_unregistered_sampler_is_an_error(run_net, tiny_command: list[str]) -> None:
    outcome = run_net(*tiny_command, "DATA.SAMPLER", "middle")
    assert outcome.code == 2
    assert "DATA.SAMPLER" in outcome.err


def test_modules_are_imported_by_name_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    for name in ("by_name", "by_file"):
        (tmp_path / f"{name}.py").write_text("count = []")
    import_modules(["by_name", str(tmp_path / "by_file.py"), "by_name"])
    assert {"by_name", "by_file"} <= sys.modules.keys()


@pytest.mark.parametrize("name", ["no_such_module", "no_such_file.py", "faulty", "json.py"])
def test_module_that_cannot_be_imported_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "faulty.py").write_text("1 / 0")
    (tmp_path / "json.py").write_text("")  # the name of a module that is imported already
    with pytest.raises(UserError, match=name):
        import_modules([name])
