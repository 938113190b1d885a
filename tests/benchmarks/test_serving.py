"""The load test of the HTTP service."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from timesformer import load_model
from timesformer.benchmarks import serving
from timesformer.commands import benchmark
from timesformer.serving.api import make_api
from timesformer.serving.service import PredictionService
from timesformer.web.reading import Readers
from timesformer.web.uploads import Limits


@pytest.mark.slow
def test_every_service_gets_all_requests(
    tiny_checkpoint: Path,
    tiny_clips: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answered: dict[int, list[float]] = {}

    @contextmanager
    def running(checkpoint: str, batch_size: int, clients: int) -> Iterator[Any]:
        """In this process."""
        service = PredictionService(load_model(checkpoint, "cpu"), Readers(Limits(), 1), clients, batch_size)
        with TestClient(make_api(service, "", 500)) as client:
            yield client
            samples = service.metrics.batch.collect()[0].samples
            answered[batch_size] = [sample.value for sample in samples if sample.name.endswith("_sum")]

    monkeypatch.setattr(serving, "_running", running)
    clock = count()  # read before and after each request and each round
    monkeypatch.setattr(serving, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    options = ["--clients", "2", "--requests", "3", "--rounds", "2", "--batch-sizes", "4", "1"]
    videos = [str(tiny_clips[name]) for name in ("H.264", "MPEG-4")]
    command = ["serve", "--checkpoint", str(tiny_checkpoint), "--videos", *videos, *options]
    assert benchmark.main(command) == 0
    views = load_model(tiny_checkpoint, "cpu").cfg.TEST.NUM_ENSEMBLE_VIEWS
    assert answered == {4: [views * (2 + 2 * 3)], 1: [views * (2 + 2 * 3)]}
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["4", "1"]
    assert [row[1] for row in rows[1:]] == ["0.4", "0.4"]  # 2 x 3 requests in 2 x 7 readings of the clock
    assert all(1 <= float(median) <= float(late) for _, _, median, late, _ in rows[1:])
    assert rows[2][-1] == "1.0"
