"""Accuracy and ensembles, against the original's values on the same scores."""

import json
from ast import literal_eval
from pathlib import Path

import pytest
import torch

from timesformer.engine.meters import Throughput, ViewEnsemble, topk_accuracies

pytestmark = pytest.mark.numerical


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict:
    return json.loads((golden_dir / "metrics.json").read_text())


def test_topk_matches_the_original(golden: dict) -> None:
    scores, labels = torch.tensor(golden["preds"]), torch.tensor(golden["labels"])
    for ks, expected in golden["topks_correct"].items():
        percent = [100 * correct / len(labels) for correct in expected]
        assert topk_accuracies(scores, labels, literal_eval(ks)) == pytest.approx(percent)
    assert topk_accuracies(scores, labels, (1, 5)) == pytest.approx(golden["topk_accuracies"], abs=1e-4)


def test_topk_above_the_number_of_classes_counts_every_sample() -> None:
    assert topk_accuracies(torch.eye(3), torch.tensor([1, 1, 2]), (1, 5)) == pytest.approx([200 / 3, 100.0])


def ensemble_of(case: dict, method: str, scores: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Scores of the videos, with the views added four at a time."""
    ensemble = ViewEnsemble(case["num_videos"], case["num_clips"], case["num_cls"], method)
    for index in order.split(4):
        ensemble.update(scores[index], index // case["num_clips"], index % case["num_clips"])
    return ensemble.complete()


def test_maximum_of_negative_logits(golden: dict) -> None:
    """The original's maximum starts at zero, so that no negative logit counts; this project's does not."""
    case = golden["test_meter"]
    scores = torch.tensor(case["max_on_negative_logits"]["clip_preds"])
    found = ensemble_of(case, "max", scores, torch.arange(len(scores)))
    assert torch.equal(found, scores.view(case["num_videos"], case["num_clips"], -1).amax(dim=1))


def test_view_ensemble_refuses_missing_and_repeated_views() -> None:
    ensemble = ViewEnsemble(2, 2, 3)
    ensemble.update(torch.zeros(3, 3), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="1 are missing"):
        ensemble.complete()
    for videos in ([0], [1, 1]):  # added before, and twice at once
        with pytest.raises(ValueError, match="twice"):
            ensemble.update(torch.zeros(len(videos), 3), torch.tensor(videos), torch.tensor([0] * len(videos)))


def test_throughput(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 4.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    throughput = Throughput(10)
    for _ in range(2):
        throughput.step(clips=8, waited=0.5)
    assert throughput.report() == {"clips_per_second": 4.0, "data_share": 0.25, "eta_seconds": 16.0}
