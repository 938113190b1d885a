"""Weights & Biases offline and MLflow in a local database, read back from what they store."""

import json
import logging
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fvcore.common.config import CfgNode

from tests.conftest import Outcome
from tests.patience import PATIENCE
from timesformer.config import load_config
from timesformer.config.load import ConfigError
from timesformer.config.options import flatten, get_option
from timesformer.runtime.logging import MetricsWriter
from timesformer.runtime.trackers import Trackers

mlflow = pytest.importorskip("mlflow")
pytest.importorskip("wandb")

BOTH = ["WANDB.ENABLED", "True", "MLFLOW.ENABLED", "True"]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: str) -> Iterator[None]:
    """Both libraries store in folders of the tests, and connect to no host."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_DIR", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.setenv(name, "")  # so that it is restored, although MLflow sets it
        monkeypatch.delenv(name)
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "WANDB__SERVICE_WAIT": str(PATIENCE),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }.items():
        monkeypatch.setenv(name, value)
    mlflow.set_tracking_uri(database)
    yield
    mlflow.set_tracking_uri(None)


def mlflow_run(output: Path) -> Any:
    """The run of a folder; it must be the only one with this name."""
    client, folder = mlflow.MlflowClient(), output.parent.name
    experiment = client.get_experiment_by_name("timesformer").experiment_id
    (run,) = client.search_runs([experiment], f"attributes.run_name = '{folder}/out'")
    return run


def mlflow_history(run: Any, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in mlflow.MlflowClient().get_metric_history(run.info.run_id, name)]


def wandb_records(folder: Path) -> Iterator[Any]:
    """The records of an offline run, whose file is a LevelDB log after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("run-*.wandb")
    content, position, block, parts = path.read_bytes(), 7, 32768, b""
    while position + 7 <= len(content):
        if (left := block - position % block) < 7:
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""


def wandb_history(folder: Path) -> list[dict[str, Any]]:
    """The rows without what the library adds."""
    rows = []
    for record in wandb_records(folder):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            rows.append({key: value for key, value in row.items() if not key.startswith("_")})
    return rows


def expected_rows(lines: list[dict[str, Any]], batches: int) -> list[dict[str, Any]]:
    return [
        {f"{line['kind']}/{name}": value for name, value in line.items() if name not in ("kind", "epoch")}
        | {"epoch": line["epoch"], "iteration": round(line["epoch"] * batches)}
        for line in lines
    ]


def metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_run_is_tracked(run_net: Callable[..., Outcome], tiny_command: list[str], tmp_path: Path) -> None:
    output = tmp_path / "runs" / "out"
    arguments = [*tiny_command, *BOTH, "TEST.REPORT", "True", "OUTPUT_DIR", str(output)]
    assert run_net(*arguments).code == 0
    lines, results = metrics(output), json.loads((output / "results.json").read_text())
    run = mlflow_run(output)
    assert run.info.status == "FINISHED"
    options = flatten(load_config(arguments[1], arguments[2:]))
    assert run.data.params == {key: str(value) for key, value in options.items()}
    for kind, name in (("train_step", "lr"), ("train_epoch", "top1"), ("val_epoch", "loss")):
        found = [(round(6 * line["epoch"]), line[name]) for line in lines if line["kind"] == kind]
        assert mlflow_history(run, f"{kind}/{name}") == found
    assert run.data.metrics["test/top1"] == results["top1"]
    stored = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert stored == {"config.yaml", "predictions.csv", "report.html", "results.json"}
    report = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="report.html")
    assert Path(report).read_bytes() == (output / "report.html").read_bytes()

    (folder,) = (output / "wandb").glob("offline-run-*")
    assert wandb_history(folder) == expected_rows(lines, 6)
    records = list(wandb_records(folder))
    (started,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for item in started.config.update}
    assert config["SOLVER"]["BASE_LR"] == 0.01
    summary = {item.key or "/".join(item.nested_key): item.value_json for r in records for item in r.summary.update}
    assert json.loads(summary["test/top1"]) == results["top1"]
    assert (folder / "files" / "report.html").read_bytes() == (output / "report.html").read_bytes()


@pytest.fixture
def cfg(tiny_command: list[str], tmp_path: Path) -> CfgNode:
    cfg = load_config(tiny_command[1], [*tiny_command[2:], *BOTH, "OUTPUT_DIR", str(tmp_path / "out")])
    cfg.TENSORBOARD.ENABLE = False
    (tmp_path / "out").mkdir()
    return cfg


@pytest.mark.slow
def test_resumed_run_is_the_same_tracked_run(cfg: CfgNode) -> None:
    trackers = Trackers(cfg)
    writer = MetricsWriter(cfg, 0, 10, 0, trackers)
    for tenth in range(1, 14):
        writer.write("train_step", tenth / 10, {"loss": 1 / tenth})
    trackers.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert mlflow_run(Path(cfg.OUTPUT_DIR)).info.status == "KILLED"
    cfg.SOLVER.BASE_LR = 0.5  # may change when a run resumes; a parameter of MLflow may not
    with Trackers(cfg) as trackers:
        writer = MetricsWriter(cfg, 1.0, 10, 1, trackers)
        for tenth in range(11, 16):
            writer.write("train_step", tenth / 10, {"loss": 1 / tenth})
    run = mlflow_run(Path(cfg.OUTPUT_DIR))
    assert run.info.status == "FINISHED"
    assert mlflow_history(run, "train_step/loss") == [(tenth, 1 / tenth) for tenth in range(1, 16)]
    first, second = sorted(
        (Path(cfg.OUTPUT_DIR) / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime
    )
    assert first.name.split("-")[3] == second.name.split("-")[3]  # the id; of runs in one second, a number follows
    # Each offline folder has the whole run so far, so that uploading the last one suffices.
    assert wandb_history(second) == expected_rows(metrics(Path(cfg.OUTPUT_DIR)), 10)


@pytest.mark.slow
def test_failing_tracker_does_not_stop_the_run(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/absent/mlflow.db")
    (tmp_path / "absent").write_text("a file")
    with caplog.at_level(logging.WARNING), Trackers(cfg) as trackers:
        writer = MetricsWriter(cfg, 0, 1, 0, trackers)
        monkeypatch.setattr("wandb.Run.log", lambda *_, **__: 1 / 0)
        writer.write("train_epoch", 1, {"loss": 2.0})
        writer.write("train_epoch", 2, {"loss": 1.0})
    assert [line["loss"] for line in metrics(Path(cfg.OUTPUT_DIR))] == [2.0, 1.0]
    assert [record.args[0] for record in caplog.records if record.name.startswith("timesformer")] == [
        "MLflow",
        "Weights & Biases",
    ]


@pytest.mark.parametrize(("key", "package"), [("WANDB.ENABLED", "wandb"), ("MLFLOW.ENABLED", "mlflow")])
def test_missing_library_is_a_user_error(
    tiny_command: list[str], monkeypatch: pytest.MonkeyPatch, key: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert not get_option(load_config(tiny_command[1], tiny_command[2:]), key)
    with pytest.raises(ConfigError) as error:
        load_config(tiny_command[1], [*tiny_command[2:], key, "True"])
    assert error.value.problems[0].startswith(key)
    assert len(error.value.problems) == 1
