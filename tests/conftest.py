"""Shared fixtures: folders of reference data, a file server, and a training run that takes a second."""

import importlib
import logging
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from tests.loopback import Server
from tests.patience import PATIENCE
from tests.processes import Outcome, ranks, unhurried  # noqa: F401
from timesformer.engine import meters
from timesformer.runtime.signals import STOPPING, clear_signals
from timesformer.torchvision_import import repair_torchvision

sys.modules["openvino_telemetry"] = None  # as `import_library`: test modules import OpenVINO themselves
repair_torchvision()  # before any test imports transformers, which imports torchvision if it is there

# The same examples in every run, and no limit on the time of one.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# A shell that starts the tests in the background ignores Ctrl-C, and all processes that they start would too.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]

TINY_CONFIG = """
TRAIN: {DATASET: hmdb_simp, BATCH_SIZE: 2, EVAL_PERIOD: 1, CHECKPOINT_PERIOD: 1}
TEST: {DATASET: hmdb_simp, BATCH_SIZE: 4, NUM_ENSEMBLE_VIEWS: 1, NUM_SPATIAL_CROPS: 1, REPORT: False}
DATA: {NUM_FRAMES: 2, SAMPLING_RATE: 1, TRAIN_CROP_SIZE: 16, TEST_CROP_SIZE: 16, TRAIN_JITTER_SCALES: [16, 20]}
DATA_LOADER: {NUM_WORKERS: 0}
MODEL: {MODEL_NAME: TimeSformer, NUM_CLASSES: 3, DROPOUT_RATE: 0.1}
TIMESFORMER: {EMBED_DIM: 16, DEPTH: 1, NUM_HEADS: 2, PATCH_SIZE: 8, INIT: scratch}
SOLVER: {BASE_LR: 0.01, MAX_EPOCH: 2}
NUM_GPUS: 0
GLOBAL_BATCH_SIZE: 2
LOG_PERIOD: 1
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the tests of exported files last: forks of a process that has loaded OpenVINO may crash or hang."""
    items.sort(key=lambda item: item.nodeid.startswith("tests/export/"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """No test leaves a signal handler behind, nor a signal that a later training run would obey."""
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    yield
    clear_signals()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """No test leaves the log of a run behind, nor a level of logging."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    reset_log()


def reset_log() -> None:
    """Closes the files of the log; it is as if no run had set it up."""
    log = logging.getLogger("timesformer")
    for handler in log.handlers:
        handler.close()
    log.handlers, log.propagate = [], True
    log.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def reports_by_steps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine, a run logs the same lines."""
    monkeypatch.setattr(meters, "LONGEST_SILENCE", PATIENCE)


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels that PyTorch compiled in earlier runs, maybe for other instructions, are not used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the original's numbers and its test videos; tests/golden/README.md describes each file."""
    return ROOT / "tests/golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real clips, published tables ($TIMESFORMER_SHARED, else ../shared next to the checkout), or skip the test."""
    folder = Path(os.environ.get("TIMESFORMER_SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"reference data not found at {folder}: set TIMESFORMER_SHARED to its folder")
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A file server on this machine, and no proxy on the way to it."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")
    with Server() as server:
        Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 4 training, 2 validation and 2 test clips: folders of 3 JPEG frames. Not to be changed."""
    root, random = tmp_path_factory.mktemp("tiny_data"), np.random.default_rng(0)
    for split, clips in {"train": 4, "val": 2, "test": 2}.items():
        for label in ("catch", "walk", "wave"):
            for number in range(clips):
                folder = root / split / label / f"{split}{number}"
                folder.mkdir(parents=True)
                for frame in range(3):
                    image = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
                    Image.fromarray(image).save(folder / f"{frame}.jpg")
    return root


@pytest.fixture(scope="session")
def tiny_command(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of run_net.py that train two epochs on `tiny_data` and test; OUTPUT_DIR is still to be given."""
    file = tmp_path_factory.mktemp("tiny_config") / "tiny.yaml"
    file.write_text(TINY_CONFIG)
    return ["--cfg", str(file), "DATA.PATH_TO_DATA_DIR", str(tiny_data)]


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `save_best` writes, of a model of `tiny_command` that has not been trained."""
    from timesformer.config import load_config
    from timesformer.models import build_model

    cfg = load_config(tiny_command[1], tiny_command[2:])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(cfg)
    path = tmp_path_factory.mktemp("tiny_checkpoint") / "best.pyth"
    progress = {"epoch": 2, "class_names": ["catch", "walk", "wave"]}
    torch.save({"epoch": 1, "model_state": model.state_dict(), "cfg": cfg.dump(), "progress": progress}, path)
    return path


def load_command(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"timesformer.commands.{name}")


@pytest.fixture(scope="session")
def converter() -> ModuleType:
    """timesformer.models.weights.convert, for tests that do not import torch before they need to."""
    return importlib.import_module("timesformer.models.weights.convert")


@pytest.fixture
def run_net(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[..., Outcome]:
    """run_net(arguments): what `python tools/run_net.py arguments` does, without starting a process."""
    tool = load_command("train")

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr("sys.argv", ["run_net.py", *arguments])
        reset_log()
        caplog.clear()
        capsys.readouterr()
        code = tool.main()
        said = capsys.readouterr()
        # Before the run's own log is set up, pytest takes the lines that would go to stderr.
        return Outcome(code, said.out, said.err + caplog.text)

    return run


@pytest.fixture
def run_once(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable], Path]:
    """run_once(name, run): a copy of the folder that `run(folder)` writes, the first time with this name."""

    def copy(name: str, run: Callable) -> Path:
        folder = tmp_path_factory.getbasetemp() / name
        assert folder.exists() or run(folder).code == 0
        return Path(shutil.copytree(folder, tmp_path / "out"))

    return copy
