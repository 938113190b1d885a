"""The cache of features: what invalidates it, interruptions, several processes, and clips that cannot be read."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import load_command
from tests.patience import PATIENCE
from tests.processes import Outcome, Ranks
from timesformer.config import load_config
from timesformer.datasets.catalog import load_split
from timesformer.datasets.manifest import NAME, Row, clip_files, write_manifest
from timesformer.features.store import FeatureStore
from timesformer.models.vit import VisionTransformer

OPTIONS = {
    "MODEL.FREEZE": "backbone",
    "FEATURES.ENABLED": True,
    "FEATURES.NUM_VIEWS": 2,
    "FEATURES.LEARNING_RATES": [0.01],
    "SOLVER.OPTIMIZING_METHOD": "adamw",
    "SOLVER.MAX_EPOCH": 1,
    "TENSORBOARD.ENABLE": False,
}
ALL, TRAIN = 12 * 2 + 6 + 6, 12 * 2  # views of `tiny_data`
Run = Callable[..., int]
USER_MODEL = """
from timesformer.models.build import MODEL_REGISTRY
from timesformer.models.vit import TimeSformer

@MODEL_REGISTRY.register()
class DoubledFeatures(TimeSformer):
    def head_input(self, clips):
        return 2 * super().head_input(clips)
"""


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_data`."""
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


@pytest.fixture
def arguments(tiny_command: list[str], tiny_checkpoint: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """arguments(**options): those of run_net.py that train a head on cached features of `data`."""

    def build(options: dict[str, object]) -> list[str]:
        weights = {"TRAIN.CHECKPOINT_FILE_PATH": tiny_checkpoint, "TRAIN.FINETUNE": True}
        fixed = {"DATA.PATH_TO_DATA_DIR": tmp_path / "data", "FEATURES.CACHE_DIR": tmp_path / "cache", **weights}
        fixed |= {"OUTPUT_DIR": tmp_path / f"run{len(list(tmp_path.glob('run*')))}"}
        pairs = {**OPTIONS, **fixed, **options}
        return [*tiny_command, *(str(part) for pair in pairs.items() for part in pair)]

    return build


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of clips of each forward pass of a backbone."""
    clips, embed = [], VisionTransformer.embed

    def count(self: VisionTransformer, x: Tensor) -> tuple[Tensor, Tensor]:
        clips.append(len(x))
        return embed(self, x)

    monkeypatch.setattr(VisionTransformer, "embed", count)
    return clips


@pytest.fixture
def run(data: Path, run_net: Callable[..., Outcome], arguments: Callable, computed: list[int]) -> Run:
    """run(**options): trains and tests in a new OUTPUT_DIR; returns how many views the backbone computed."""

    def count(options: dict[str, object] | None = None, code: int = 0) -> int:
        computed.clear()
        outcome = run_net(*arguments(options or {}))
        assert outcome.code == code, outcome
        return sum(computed)

    return count


def changed_checkpoint(path: Path, name: str, output: Path) -> Path:
    content = torch.load(path, weights_only=True)
    content["model_state"][name] += 0.1
    torch.save(content, output)
    return output


def test_features_are_computed_once_for_all_seeds_and_heads(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert run() == ALL
    other_head = changed_checkpoint(tiny_checkpoint, "model.head.weight", tmp_path / "head.pyth")
    for options in (
        {"RNG_SEED": 5, "FEATURES.LEARNING_RATES": [0.1, 0.2], "SOLVER.LABEL_SMOOTHING": 0.1},
        {"TRAIN.CHECKPOINT_FILE_PATH": other_head, "TRAIN.BATCH_SIZE": 6, "DATA.BALANCE": "oversample"},
    ):
        assert run(options) == 0
    assert run({"FEATURES.NUM_VIEWS": 3}) == 12
    assert run({"MODEL.HEAD": "attentive"}) == ALL
    assert run({"MODEL.HEAD": "temporal"}) == 0


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("DATA.COLOR_JITTER", 0.4, TRAIN),
        ("FEATURES.SEED", 1, TRAIN),
        ("DATA.MEAN", [0.5, 0.5, 0.5], ALL),
        ("TRAIN.TF32", False, ALL),
        ("DATA.TRAIN_JITTER_SCALES", [18, 20], ALL),
        ("TIMESFORMER.ATTENTION_TYPE", "space_only", ALL),
        ("TEST.NUM_ENSEMBLE_VIEWS", 2, 6 * 2 + 6 * 2),  # test, and validation for calibration
    ],
)
def test_a_changed_option_invalidates_what_it_affects(run: Run, key: str, value: object, expected: int) -> None:
    run()
    assert run({key: value}) == expected


def test_changed_weights_invalidate_all(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    run()
    path = changed_checkpoint(tiny_checkpoint, "model.norm.bias", tmp_path / "other.pyth")
    assert run({"TRAIN.CHECKPOINT_FILE_PATH": path}) == ALL


@pytest.mark.parametrize(("split", "views"), [("train", 2), ("val", 1)])
def test_a_changed_file_invalidates_its_clip(run: Run, data: Path, split: str, views: int) -> None:
    run()
    frame = data / split / "wave" / f"{split}1" / "1.jpg"
    os.utime(frame, ns=(frame.stat().st_atime_ns, frame.stat().st_mtime_ns + 1))
    assert run() == views


def test_a_clip_that_a_later_manifest_knows_to_be_unreadable_is_not_taken_from_the_cache(
    run: Run, data: Path, tmp_path: Path
) -> None:
    run()
    clip = "test/walk/test1"
    write_manifest(data / NAME, [Row(clip, "walk", bytes=clip_files(str(data / clip)).bytes, problem="damaged")])
    assert run({"OUTPUT_DIR": tmp_path / "out"}) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [row["video"] for row in results["unreadable"]] == ["walk/test1"]


def test_changed_code_of_the_user_invalidates_all(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    module = tmp_path / "doubled_features.py"
    module.write_text(USER_MODEL)
    options = {"IMPORTS": [str(module)], "MODEL.MODEL_NAME": "DoubledFeatures"}
    assert run(options) == ALL
    assert run(options) == 0
    module.write_text(USER_MODEL.replace("2 *", "3 *"))
    assert run(options) == ALL


def test_folds_share_features(run: Run, data: Path, arguments: Callable, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    for split in ("train", "val", "test"):
        shutil.copytree(data / split, clips, dirs_exist_ok=True)
    options = {"DATA.PATH_TO_DATA_DIR": clips, "TRAIN.DATASET": "folder", "TEST.DATASET": "folder"}
    options |= {"DATA.SPLIT_RULE": "folds", "DATA.NUM_FOLDS": 4, "DATA.VAL_FRACTION": 0.3}
    folds = [{**options, "DATA.FOLD": fold} for fold in (1, 2, 3)]
    counts = [run(fold) for fold in folds]
    configs = [load_config(built[1], built[2:]) for built in map(arguments, folds)]
    trained, evaluated = (
        {name for cfg in configs for split in splits for name in load_split(cfg, split).records.names}
        for splits in (["train"], ["val", "test"])
    )
    assert sum(counts) == 2 * len(trained) + len(evaluated)
    assert run({**folds[1], "RNG_SEED": 3}) == 0


def test_an_interrupted_pass_resumes(run: Run, computed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    counting = VisionTransformer.embed

    def interrupt(self: VisionTransformer, x: Tensor) -> tuple[Tensor, Tensor]:
        if len(computed) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return counting(self, x)

    monkeypatch.setattr(VisionTransformer, "embed", interrupt)
    first = run(code=128 + signal.SIGINT)
    assert 0 < first < TRAIN
    monkeypatch.setattr(VisionTransformer, "embed", counting)
    assert run() == ALL - first


@pytest.mark.parametrize("damage", ["rows", "index", "index_line", "half_a_row"])
def test_damaged_files_are_detected(run: Run, tmp_path: Path, damage: str) -> None:
    run()
    rows = max(tmp_path.glob("cache/*/*.f16"), key=lambda path: path.stat().st_size)  # of the training views
    index = rows.with_suffix(".jsonl")
    if damage == "rows":
        content = bytearray(rows.read_bytes())
        content[5] ^= 1
        rows.write_bytes(content)
    elif damage == "half_a_row":
        rows.write_bytes(rows.read_bytes()[:-3])
    else:
        index.write_text("" if damage == "index" else index.read_text()[:-9])
    assert run() == (TRAIN if damage == "index" else 1)
    assert run() == 0


def test_an_unreadable_clip_is_replaced_in_training_and_an_error_in_the_test(
    run: Run, data: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        for frame in (data / split / "walk" / f"{split}1").iterdir():
            frame.write_bytes(b"")
    options = {"DATA.MAX_UNREADABLE_FRACTION": 0.1, "OUTPUT_DIR": tmp_path / "out"}
    assert run(options) == ALL - 3
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [row["video"] for row in results["unreadable"]] == ["walk/test1"]
    assert [row["method"] for row in results["reference"]] == ["k-NN", "logistic regression"]
    listed = (tmp_path / "out/unreadable.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in listed] == ["walk/train1", "walk/test1"]
    assert run({"DATA.MAX_UNREADABLE_FRACTION": 0.05}, code=2) == 0
    assert run({"DATA.MAX_UNREADABLE_FRACTION": 0.1, "DATA.ON_UNREADABLE": "error"}, code=2) == 0


def test_views_drawn_at_random_in_validation_are_refused(run: Run) -> None:
    assert run({"DATA.TEST_SAMPLER": "random"}, code=2) == 0


def keys_in(cache: Path) -> list[str]:
    lines = [line for path in cache.glob("*/*.jsonl") for line in path.read_text().splitlines()[1:]]
    return [f"{json.loads(line)['key']}" for line in lines]


def test_parts_are_claimed_by_one_process_at_a_time(tmp_path: Path) -> None:
    first, second = (FeatureStore(tmp_path / "features", {}) for _ in range(2))
    with first.claim(range(8)) as claimed, second.claim(range(8)) as others:
        assert claimed == [0, 1]
        assert others == [2, 3]
        with second.claim(claimed) as nothing:
            assert nothing == []
    with second.claim(claimed) as released:
        assert released == claimed[:1]


@pytest.mark.slow
def test_two_runs_share_a_cache(data: Path, arguments: Callable, tmp_path: Path) -> None:
    tool = load_command("train")

    def work(seed: int) -> None:
        torch.set_num_threads(1)
        sys.argv = ["run_net.py", *arguments({"RNG_SEED": seed, "OUTPUT_DIR": tmp_path / f"out{seed}"})]
        sys.exit(tool.main())

    processes = [get_context("fork").Process(target=work, args=(seed,)) for seed in (1, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(keys_in(tmp_path / "cache")) == len(set(keys_in(tmp_path / "cache"))) == ALL


@pytest.mark.slow
def test_processes_of_a_run_share_the_work(data: Path, ranks: Ranks, arguments: Callable, tmp_path: Path) -> None:
    tool = load_command("train")

    def run_processes(number: int) -> dict[str, object]:
        output = tmp_path / f"processes{number}"
        options = {"OUTPUT_DIR": output, "FEATURES.CACHE_DIR": tmp_path / f"cache{number}"}

        def work(rank: int) -> int:
            sys.argv = ["run_net.py", *arguments(options)]
            return tool.main()

        outcomes = ranks(number, work)
        assert [outcome.code for outcome in outcomes] == [0] * number, outcomes
        assert len(set(keys_in(tmp_path / f"cache{number}"))) == ALL
        return json.loads((output / "results.json").read_text())

    one, two = run_processes(1), run_processes(2)
    assert len(list((tmp_path / "cache2").glob("*/*.f16"))) == 2 * 3  # of each process, for each split
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-3)
