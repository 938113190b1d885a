"""Accuracies of a test, compared with scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from timesformer.metrics.evaluation import Evaluation


@pytest.mark.parametrize("classes", [2, 5, 6, 9])
def test_top5_is_measured_for_more_than_five_classes(classes: int) -> None:
    random = np.random.default_rng(classes)
    scores, labels = random.normal(size=(40, classes)), random.integers(0, classes, 40)
    logits, names = torch.from_numpy(scores), [str(number) for number in range(40)]
    evaluation = Evaluation(names, torch.from_numpy(labels), logits, logits, {}, 0.5, 1, 1.0, logits.flip(0))
    metrics, shuffled = evaluation.metrics(), evaluation.shuffled_metrics()
    expected = {} if classes < 6 else {"top5": 100 * top_k_accuracy_score(labels, scores, k=5, labels=range(classes))}
    assert {key: value for key, value in metrics.items() if key == "top5"} == pytest.approx(expected)
    assert metrics["top1"] == pytest.approx(100 * np.mean(scores.argmax(axis=1) == labels))
    assert ("top5" in shuffled) == ("top-5" in evaluation.describe()) == (classes > 5)
