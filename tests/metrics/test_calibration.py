"""Calibration error and temperature, compared with other ways to compute them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from timesformer.metrics.calibration import TEMPERATURES, cross_entropy, fit_temperature, reliability, softmax


def make_logits(videos: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(videos, 4)), random.integers(0, 4, videos)
    logits[range(videos), labels] += 1.0
    return scale * logits, labels


def test_calibration_error_is_that_of_torchmetrics_formula() -> None:
    logits, labels = make_logits(500, 2.0)
    probabilities = F.softmax(torch.from_numpy(logits), dim=1)
    confidence, predicted = probabilities.max(dim=1)
    correct = predicted.numpy() == labels
    # torchmetrics.functional.classification.multiclass_calibration_error, norm "l1"
    bins = torch.bucketize(confidence, torch.linspace(0, 1, 16, dtype=torch.float64), right=True) - 1
    error = 0.0
    for number in bins.unique():
        members = (bins == number).numpy()
        error += members.mean() * abs(correct[members].mean() - confidence.numpy()[members].mean())
    found = reliability(confidence, correct)
    assert found.error == pytest.approx(100 * error)
    assert found.count.sum() == 500
    assert reliability([1.0, 1.0], [True, True]).error == 0.0
    assert reliability([0.7, 0.7, 0.7, 0.7], [True, True, True, False]).error == pytest.approx(5.0)


@pytest.mark.parametrize("scale", [0.3, 1.0, 8.0])
def test_temperature_has_the_lowest_cross_entropy(scale: float) -> None:
    logits, labels = make_logits(200, scale)
    grid = np.geomspace(*TEMPERATURES, 3001)
    losses = [F.cross_entropy(torch.from_numpy(logits / t), torch.from_numpy(labels)).item() for t in grid]
    temperature, loss = fit_temperature(logits, labels)
    best = int(np.argmin(losses))
    assert 0 < best < 3000
    assert grid[best - 1] < temperature < grid[best + 1]
    assert loss <= losses[best]
    assert cross_entropy(logits, labels, temperature) == loss
    expected = F.softmax(torch.from_numpy(logits) / temperature, dim=1)
    np.testing.assert_allclose(softmax(logits, temperature), expected, rtol=1e-12)


def test_temperature_of_perfect_predictions_is_bounded() -> None:
    temperature, _ = fit_temperature(2 * np.eye(3), np.arange(3))
    assert temperature == pytest.approx(TEMPERATURES[0], rel=1e-3)
