"""Metrics of a whole test, compared with scikit-learn and SciPy, and the temperature in predictions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from scipy.optimize import brute
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest
from sklearn import metrics as sklearn
from sklearn.calibration import calibration_curve

from tests.conftest import Outcome
from timesformer.config import get_cfg
from timesformer.datasets.records import DatasetSplit, Records
from timesformer.engine.calibration import calibrate
from timesformer.errors import UserError
from timesformer.inference.classifier import load_model
from timesformer.metrics.evaluation import Evaluation

RunNet = Callable[..., Outcome]
OPTIONS = """
TRAIN: {DATASET: hmdb_simp, BATCH_SIZE: 8, EVAL_PERIOD: 8, CHECKPOINT_PERIOD: 8}
TEST: {DATASET: hmdb_simp, BATCH_SIZE: 16, NUM_ENSEMBLE_VIEWS: 2, NUM_SPATIAL_CROPS: 1, REPORT: False,
  SAVE_RESULTS_PATH: scores.npz}
DATA: {NUM_FRAMES: 1, SAMPLING_RATE: 1, TRAIN_CROP_SIZE: 16, TEST_CROP_SIZE: 16, TRAIN_JITTER_SCALES: [16, 16]}
DATA_LOADER: {NUM_WORKERS: 0}
MODEL: {MODEL_NAME: TimeSformer}
TIMESFORMER: {EMBED_DIM: 16, DEPTH: 1, NUM_HEADS: 2, PATCH_SIZE: 8, INIT: scratch, DROP_PATH_RATE: 0.0}
SOLVER: {OPTIMIZING_METHOD: adamw, BASE_LR: 0.01, MAX_EPOCH: 8}
TENSORBOARD: {ENABLE: False}
GLOBAL_BATCH_SIZE: 8
NUM_GPUS: 0
"""


def make_data(root: Path, classes: int) -> Path:
    """Clips of noisy frames, brighter from class to class; the last of several classes has no test clips.

    One validation and one test clip cannot be read.
    """
    random = np.random.default_rng(0)
    for split, clips in {"train": 8, "val": 6, "test": 10}.items():
        for label in range(classes - (split == "test" and classes > 2)):
            for number in range(clips):
                folder = root / split / f"class{label}" / f"{split}{number}"
                folder.mkdir(parents=True)
                for frame in range(3):
                    level = 60 + 40 * label + random.normal(0, 25)
                    image = np.clip(level + random.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
                    Image.fromarray(image).save(folder / f"{frame}.png")
        if split != "train":
            for frame in range(3):
                (folder / f"{frame}.png").write_bytes(b"no image")
    return root


@pytest.fixture
def tested(run_net: RunNet, run_once: Callable[..., Path], tmp_path: Path) -> Callable[[int], Path]:
    """tested(classes): OUTPUT_DIR of a training and test on `make_data`, which is in `data` next to it."""

    def run(classes: int) -> Path:
        data, file = make_data(tmp_path / "data", classes), tmp_path / "options.yaml"
        file.write_text(OPTIONS)
        command = ["--cfg", str(file), "DATA.PATH_TO_DATA_DIR", str(data), "MODEL.NUM_CLASSES", str(classes)]
        return run_once(f"metrics_{classes}", lambda output: run_net(*command, "OUTPUT_DIR", str(output)))

    return run


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


class Scores:
    """The content of scores.npz: labels, predicted classes, and logits and labels of the readable videos."""

    def __init__(self, folder: Path) -> None:
        content, found = np.load(folder / "scores.npz"), results(folder)
        unreadable = {row["video"] for row in found["unreadable"]}
        readable = np.array([name not in unreadable for name in content["names"]])
        assert not readable.all()
        self.labels, logits = content["labels"], content["scores"].astype(np.float64) / found["num_views"]
        self.predicted = np.where(readable, logits.argmax(axis=1), -1)
        self.logits, self.labels_read = logits[readable], self.labels[readable]
        self.probabilities = softmax(self.logits, axis=1)


def close(expected: Any, digits: int = 4) -> Any:
    """Equal after rounding to some digits."""
    return pytest.approx(expected, abs=0.51 * 10**-digits, nan_ok=True)


@pytest.mark.slow
def test_metrics_equal_scikit_learn(tested: Callable[[int], Path]) -> None:
    output = tested(4)
    found, scores = results(output)["metrics"], Scores(output)
    labels, predicted, known = scores.labels, scores.predicted, [0, 1, 2]
    assert set(labels) == set(known)  # the last class has no videos
    for average in ("macro", "weighted"):
        expected = sklearn.precision_recall_fscore_support(
            labels, predicted, labels=known, average=average, zero_division=0
        )
        assert [*found[average].values()] == close([100 * value for value in expected[:3]])
    assert found["balanced_accuracy"] == close(
        100 * sklearn.recall_score(labels, predicted, labels=known, average="macro")
    )
    assert found["per_class"]["f1"][3] is None
    by_class = sklearn.f1_score(labels, predicted, labels=known, average=None)
    assert found["per_class"]["f1"][:3] == close(100 * by_class)

    of_class = scores.labels_read[:, None] == np.arange(4)
    precisions = [sklearn.average_precision_score(of_class[:, c], scores.probabilities[:, c]) for c in known]
    areas = [sklearn.roc_auc_score(of_class[:, c], scores.probabilities[:, c]) for c in known]
    assert found["per_class"]["average_precision"][:3] == close(100 * np.array(precisions))
    assert found["per_class"]["average_precision"][3] is None
    assert found["per_class"]["roc_auc"][:3] == close(areas, 6)
    assert found["mean_average_precision"] == close(100 * np.mean(precisions))
    assert [curve["class"] for curve in found["curves"]] == [None, "class0", "class1", "class2"]
    pairs = [(of_class.ravel(), scores.probabilities.ravel())]
    pairs += [(of_class[:, c], scores.probabilities[:, c]) for c in known]
    for curve, pair in zip(found["curves"], pairs, strict=True):
        precision, recall, _ = sklearn.precision_recall_curve(*pair)
        false_positives, true_positives, _ = sklearn.roc_curve(*pair)
        assert_on_curve((curve["recall"], curve["precision"]), (recall[::-1], precision[::-1]))
        assert_on_curve((curve["false_positive_rate"], curve["true_positive_rate"]), (false_positives, true_positives))
    share = len(scores.labels_read) / len(labels)
    cmc = [sklearn.top_k_accuracy_score(scores.labels_read, scores.logits, k=k, labels=range(4)) for k in (1, 2, 3)]
    assert found["cmc"]["k"] == [1, 2, 3, 4]
    assert found["cmc"]["accuracy"] == close([100 * share * value for value in (*cmc, 1.0)])
    assert found["cmc"]["accuracy"][0] == results(output)["top1"]
    majority = np.bincount(labels).max() / len(labels)
    assert (found["chance"], found["majority"]) == (25.0, close(100 * majority))
    correct = int((predicted == labels).sum())
    assert found["majority_p_value"] == pytest.approx(
        binomtest(correct, len(labels), majority, alternative="greater").pvalue
    )


def assert_on_curve(found: tuple[list[float], list[float]], curve: tuple[np.ndarray, np.ndarray]) -> None:
    """Every point is one of the curve's, and the ends are the same; both in percent, rounded to two digits."""
    points = 100 * np.column_stack(curve)
    distances = np.abs(points[:, None] - np.column_stack(found)).max(axis=2)
    assert (distances.min(axis=0) < 0.006).all()
    assert distances[[0, -1], [0, -1]].max() < 0.006


@pytest.mark.slow
def test_temperature_is_fitted_on_validation_and_used_in_predictions(tested: Callable[[int], Path]) -> None:
    output = tested(4)
    found, scores = results(output)["metrics"]["calibration"], Scores(output)
    # Validation with the views of the test: logits up to a constant for each video, which no softmax depends on.
    clips = sorted((output.parent / "data" / "val").glob("class*/*"))
    raw = load_model(output, "cpu", ["TEST.CALIBRATE", "False"])
    predictions = [*raw.predict_many(clips, workers=0)]
    logits = np.log([p.probabilities.astype(np.float64) for p in predictions if not p.error])
    labels = np.array([int(clip.parent.name[-1]) for clip, p in zip(clips, predictions, strict=True) if not p.error])
    assert found["num_validation_videos"] == len(labels) == len(clips) - 1

    def loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
        return -log_softmax(logits / temperature, axis=1)[range(len(labels)), labels].mean()

    best = brute(lambda power: loss(logits, labels, np.exp(power[0])), [(np.log(0.1), np.log(30))], Ns=200)
    assert found["temperature"] == pytest.approx(np.exp(best[0]), rel=1e-3)
    for suffix, temperature in (("", 1.0), ("_calibrated", found["temperature"])):
        expected = loss(scores.logits, scores.labels_read, temperature)
        assert found[f"cross_entropy{suffix}"] == close(expected, 6)
        probabilities = softmax(scores.logits / temperature, axis=1)
        correct = scores.labels_read == scores.logits.argmax(axis=1)
        counts = np.array(found[f"reliability{suffix}"]["num_videos"])
        shares, confidence = calibration_curve(correct, probabilities.max(axis=1), n_bins=15)
        error = np.average(np.abs(shares - confidence), weights=counts[counts > 0])
        assert found[f"ece{suffix}"] == close(100 * error)

    classifier = load_model(output, "cpu")
    assert classifier.temperature(classifier.cfg) == found["temperature"]
    for plain, prediction in zip(predictions, classifier.predict_many(clips, workers=0), strict=True):
        if plain.error:
            continue
        expected = softmax(np.log(plain.probabilities.astype(np.float64)) / found["temperature"])
        np.testing.assert_allclose(prediction.probabilities, expected, rtol=1e-4)
        assert [name for name, _ in prediction.top] == [name for name, _ in plain.top]


@pytest.mark.slow
def test_another_test_keeps_the_temperature_of_other_views(
    tested: Callable[[int], Path], run_net: RunNet, tmp_path: Path
) -> None:
    output = tested(4)
    command = ["--cfg", str(output / "config.yaml"), "TRAIN.ENABLE", "False", "OUTPUT_DIR", str(output)]
    data = ["DATA.PATH_TO_DATA_DIR", str(tmp_path / "data")]
    path = output / "checkpoints" / "best.pyth"
    before = path.read_bytes()
    assert run_net(*command, *data).code == 0  # the same test
    assert path.read_bytes() == before
    assert run_net(*command, *data, "TEST.NUM_ENSEMBLE_VIEWS", "1").code == 0
    classifier = load_model(output, "cpu")
    for views, folder in ((2, output), (1, output / "test_1x1")):
        expected = results(folder)["metrics"]["calibration"]["temperature"]
        assert classifier.temperature(classifier.options(views=views)) == expected
    assert classifier.temperature(classifier.options(views=3)) == classifier.temperature(classifier.cfg)
    elsewhere = ["TEST.CHECKPOINT_FILE_PATH", str(path), "OUTPUT_DIR", str(tmp_path / "elsewhere")]
    before = path.read_bytes()
    assert run_net(*command, *data, *elsewhere, "TEST.NUM_ENSEMBLE_VIEWS", "4").code == 0
    assert path.read_bytes() == before


@pytest.mark.slow
def test_two_classes_have_a_table_of_thresholds(tested: Callable[[int], Path]) -> None:
    output = tested(2)
    found, scores = results(output)["metrics"], Scores(output)
    assert found["two_classes"]["positive_class"] == "class1"
    rows = found["two_classes"]["thresholds"]
    assert [row["threshold"] for row in rows] == pytest.approx(np.arange(0.05, 1, 0.05))
    for row in rows:
        predicted = scores.probabilities[:, 1] >= row["threshold"]
        expected = sklearn.precision_recall_fscore_support(
            scores.labels_read, predicted, average="binary", zero_division=np.nan
        )
        precision = np.nan if row["precision"] is None else row["precision"]
        assert [precision, row["recall"]] == close([100 * value for value in expected[:2]])
        assert row["f1"] == close(100 * sklearn.f1_score(scores.labels_read, predicted, zero_division=0))
    assert [curve["class"] for curve in found["curves"]] == ["class1"]


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "folder"
    return cfg


def split_of(*paths: str) -> DatasetSplit:
    return DatasetSplit(Records(paths, [0] * len(paths), paths), ("a", "b"))


class Missing(dict):
    def __missing__(self, name: str) -> DatasetSplit:
        raise UserError(f"no {name}")


@pytest.mark.parametrize(
    ("options", "splits", "trained", "part"),
    [
        (["TEST.CALIBRATE", False], {}, {}, "TEST.CALIBRATE"),
        (["TEST.FRAME_ORDER", "averaged"], {}, {}, "TEST.FRAME_ORDER"),
        ([], Missing(), {}, "no val"),
        ([], {"test": split_of("/v/2", "/v/3")}, {}, "1 of 2"),
        ([], {}, {"DATA": {"FOLD": 2}}, "DATA.FOLD"),
    ],
)
def test_reasons_for_no_calibration(
    cfg: CfgNode, options: list[Any], splits: dict[str, DatasetSplit], trained: dict[str, Any], part: str
) -> None:
    cfg.merge_from_list(options)
    if not isinstance(splits, Missing):
        splits = {"val": split_of("/v/1", "/v/2"), "test": split_of("/v/4"), **splits}
    found = calibrate(cfg, splits, {"cfg": json.dumps(trained)}, lambda: pytest.fail("validation was scored"))
    assert found.temperature is None
    assert part in found.reason


@pytest.mark.parametrize(("spoiled", "warns"), [(1, False), (3, True)])
def test_warning_about_a_temperature_at_the_limit(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture, spoiled: int, warns: bool
) -> None:
    """Logits that prefer an incorrect class for all videos are best when they are equal, at an infinite temperature."""
    splits = {"val": split_of("/v/1", "/v/2", "/v/3"), "test": split_of("/v/4")}
    labels = torch.tensor([0, 1, 0])
    logits = 5.0 * torch.eye(2)[labels]
    logits[:spoiled] = logits[:spoiled].flip(1)
    evaluation = Evaluation(["1", "2", "3"], labels, logits, logits, {}, 0.5, 1, 1.0)
    found = calibrate(cfg, splits, {}, lambda: evaluation)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert (found.temperature > 29, len(warnings)) == (warns, int(warns))
    assert all("TEST.CALIBRATE" in text and "3 validation videos" in text for text in warnings)


@pytest.mark.parametrize("content", [None, 3, [3], [{"temperature": "1"}], [{"temperature": 0.0, "options": {}}]])
def test_invalid_temperatures_in_a_checkpoint_are_ignored(content: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    torch.save({**torch.load(tiny_checkpoint, weights_only=True), "calibration": content}, tmp_path / "other.pyth")
    classifier = load_model(tmp_path / "other.pyth", "cpu")
    assert classifier.temperature(classifier.cfg) == 1.0
