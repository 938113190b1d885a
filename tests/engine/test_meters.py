"""Accuracy and ensembles, against the original's values on the same scores."""

import json
from pathlib import Path

import pytest
import torch

from timesformer.engine.meters import Average, Pace, ViewEnsemble, topk_accuracies, topks_correct

pytestmark = pytest.mark.numerical


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict:
    return json.loads((golden_dir / "metrics.json").read_text())


def test_topk_matches_the_original(golden: dict) -> None:
    scores, labels = torch.tensor(golden["preds"]), torch.tensor(golden["labels"])
    for ks, expected in golden["topks_correct"].items():
        assert [float(x) for x in topks_correct(scores, labels, json.loads(as_list(ks)))] == expected
    assert topk_accuracies(scores, labels, (1, 5)) == pytest.approx(golden["topk_accuracies"], abs=1e-4)


def as_list(ks: str) -> str:
    """ "(1, 5)" and "(1,)" as JSON lists."""
    return "[" + ks.strip("()").rstrip(",") + "]"


def test_top_k_above_the_number_of_classes_counts_every_sample() -> None:
    assert topk_accuracies(torch.eye(3), torch.tensor([1, 1, 2]), (1, 5)) == pytest.approx([200 / 3, 100.0])


def test_labels_must_be_as_many_as_scores() -> None:
    with pytest.raises(ValueError, match="2 rows of scores for 3 labels"):
        topks_correct(torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64), (1,))


@pytest.mark.parametrize("method", ["sum", "max"])
def test_ensembles_of_shuffled_views_match_the_original(golden: dict, method: str) -> None:
    case = golden["test_meter"]
    ensemble = ViewEnsemble(case["num_videos"], case["num_clips"], case["num_cls"], method)
    scores, order = torch.tensor(case["clip_preds"]), torch.tensor(case["order"])
    for start in range(0, len(order), 4):
        index = order[start : start + 4]
        ensemble.update(scores[index], index // case["num_clips"], index % case["num_clips"])
    expected = torch.tensor(case["results"][method]["video_preds"])
    torch.testing.assert_close(ensemble.complete(), expected, rtol=0, atol=1e-6)
    stats = case["results"][method]["stats"]
    top1, top5 = topk_accuracies(ensemble.complete(), torch.tensor(case["video_labels"]), (1, 5))
    assert (top1, top5) == pytest.approx((float(stats["top1_acc"]), float(stats["top5_acc"])), abs=0.005)


def test_maximum_of_negative_logits_is_the_largest_of_them(golden: dict) -> None:
    """The original starts from zero there, so that no negative logit counts; this project does not."""
    case = golden["test_meter"]
    scores = torch.tensor(case["max_on_negative_logits"]["clip_preds"])
    ensemble = ViewEnsemble(case["num_videos"], case["num_clips"], case["num_cls"], "max")
    index = torch.arange(len(scores))
    ensemble.update(scores, index // case["num_clips"], index % case["num_clips"])
    assert torch.equal(ensemble.complete(), scores.view(case["num_videos"], case["num_clips"], -1).amax(dim=1))


def test_a_missing_view_is_an_error() -> None:
    ensemble = ViewEnsemble(2, 2, 3)
    ensemble.update(torch.zeros(3, 3), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="1 of 4 views are missing"):
        ensemble.complete()


@pytest.mark.parametrize("at_once", [True, False])
def test_a_view_counted_twice_is_an_error(at_once: bool) -> None:
    ensemble = ViewEnsemble(2, 1, 3)
    videos = torch.tensor([0, 0] if at_once else [0])
    if not at_once:
        ensemble.update(torch.zeros(1, 3), videos, torch.zeros_like(videos))
    with pytest.raises(ValueError, match="counted twice"):
        ensemble.update(torch.zeros(len(videos), 3), videos, torch.zeros_like(videos))


def test_average_weighs_by_samples() -> None:
    average = Average()
    average.add(torch.tensor(6.0), 3)
    average.add(torch.tensor(2.0), 1)
    assert average.value() == 2.0


def test_pace_counts_clips_and_time_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 4.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    pace = Pace(10)
    for _ in range(2):
        pace.step(clips=8, waited=0.5)
    assert pace.report() == {"clips_per_second": 4.0, "data_share": 0.25, "eta_seconds": 16.0}
