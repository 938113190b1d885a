"""The source distribution and the wheel made from it, built offline: its commands run in an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.patience import PATIENCE

pytest.importorskip("build")
Command = Callable[..., str]
TINY = "SOLVER.MAX_EPOCH 2 SOLVER.WARMUP_EPOCHS 0.0 MODEL.NUM_CLASSES 2 TIMESFORMER.DEPTH 1 TEST.MEASURE_ORDER False"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout, with the source distribution and a wheel made from it in dist/."""
    source = tmp_path_factory.mktemp("source")
    for name in ("timesformer", "configs", "tools"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run([sys.executable, "-m", "build", "--no-isolation"], source)
    return source


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel."""
    (wheel,), target = source.glob("dist/*.whl"), tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def run(command: list[str], folder: Path, **variables: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=folder, env=environment, timeout=PATIENCE, check=False, **pipes)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def command(installed: Path, tmp_path: Path) -> Command:
    """command(line): the output of `timesformer line` in an empty folder."""
    return lambda line: run([sys.executable, "-m", "timesformer", *line.split()], tmp_path, PYTHONPATH=str(installed))


@pytest.mark.slow
def test_the_wheel_has_all_files_of_the_package(source: Path, installed: Path) -> None:
    found = {path.relative_to(installed) for path in installed.glob("timesformer/**/*") if path.is_file()}
    expected = {path.relative_to(ROOT) for path in ROOT.glob("timesformer/**/*") if path.is_file()}
    expected |= {"timesformer" / path.relative_to(ROOT) for path in ROOT.glob("configs/**/*") if path.is_file()}
    assert found == {path for path in expected if "__pycache__" not in path.parts}


@pytest.mark.slow
def test_twine_accepts_both_distributions(source: Path) -> None:
    pytest.importorskip("twine")
    (archive,), (wheel,) = source.glob("dist/*.tar.gz"), source.glob("dist/*.whl")
    checked = run([sys.executable, "-m", "twine", "--no-color", "check", "--strict", str(archive), str(wheel)], source)
    assert checked.count("PASSED") == 2


@pytest.mark.slow
def test_commands_run_in_an_empty_folder(installed: Path, command: Command, tmp_path: Path) -> None:
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "timesformer = timesformer.commands.main:main" in entry_points.read_text()
    assert "Demo/TimeSformer_divST_8x2_48" in command("configs demo")
    command("prepare demo data/demo --clips-per-class 2 1 1 --classes left right")
    command(f"train --cfg Demo/TimeSformer_divST_8x2_48 --repeats seeds=2 --jobs 2 OUTPUT_DIR run {TINY}")
    runs = json.loads((tmp_path / "run/repeats.json").read_text())["runs"]
    assert [run["num_videos"] for run in runs] == [2, 2]
    first = f"run/{runs[0]['folder']}"
    command(f"predict --checkpoint {first} data/demo/test --output predictions.csv")
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 3
    job = f"submit --cfg Demo/TimeSformer_divST_8x2_48 --job_dir job --cluster local --follow TEST.REPORT False {TINY}"
    assert "epoch 2" in command(job)
    assert (tmp_path / first / "report.html").is_file()
