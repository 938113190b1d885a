"""Predictions in Python."""

import csv
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import timesformer
from timesformer.config import get_cfg
from timesformer.config.load import ConfigError
from timesformer.datasets.clips import SampledClip
from timesformer.datasets.decoding.open import VideoError
from timesformer.errors import UserError
from timesformer.inference.classifier import Classifier, Prediction, load_model
from timesformer.localization.timeline import find_actions
from timesformer.models import build_model
from timesformer.models.parts import output_names
from timesformer.models.weights.loading import CheckpointError
from timesformer.visualization.attention import METHODS, attention_maps, attention_of, record_clip

VIEWS = ["TEST.NUM_ENSEMBLE_VIEWS", "2", "TEST.NUM_SPATIAL_CROPS", "3", "TEST.BATCH_SIZE", "4"]


@pytest.fixture
def classifier(tiny_checkpoint: Path) -> Classifier:
    return load_model(tiny_checkpoint, "cpu")


@pytest.fixture(scope="session")
def clips(tiny_data: Path) -> list[str]:
    return sorted(str(path) for path in tiny_data.glob("test/*/*"))


def changed(checkpoint: Path, folder: Path, **content: object) -> Path:
    """The checkpoint with other content; None removes an entry."""
    merged = {**torch.load(checkpoint, weights_only=True), **content}
    torch.save({key: value for key, value in merged.items() if value is not None}, folder / "changed.pyth")
    return folder / "changed.pyth"


def equal(one: Prediction, other: Prediction) -> bool:
    return np.array_equal(one.probabilities, other.probabilities) and one.top == other.top


@pytest.mark.numerical
@pytest.mark.parametrize("more", [[], ["DATA.REVERSE_INPUT_CHANNEL", "True", "DATA.ENSEMBLE_METHOD", "max"]])
def test_predictions_equal_those_of_a_test(
    more: list[str], tiny_command: list[str], tiny_checkpoint: Path, tiny_data: Path, run_net: Callable, tmp_path: Path
):
    test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(tiny_checkpoint), "OUTPUT_DIR", str(tmp_path)]
    assert run_net(*tiny_command, *test, *VIEWS, *more).code == 0
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    classifier = timesformer.load_model(tiny_checkpoint, "cpu", [*VIEWS, *more])
    paths = [tiny_data / "test" / row["video"] for row in rows]
    many = classifier.predict_many(paths, workers=0)
    for row, predictions in zip(rows, zip(many, map(classifier.predict, paths), strict=True), strict=True):
        for prediction in predictions:
            assert prediction.num_views == 6
            for rank, (name, probability) in enumerate(prediction.top, start=1):
                assert name == row[f"class_{rank}"]
                assert probability == pytest.approx(float(row[f"probability_{rank}"]), abs=1e-5)
            assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_predict_many_keeps_the_order_and_reports_unreadable_videos(
    classifier: Classifier, clips: list[str], tmp_path: Path, workers: int
):
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    videos = [clips[0], str(text), *clips[1:4], str(tmp_path / "missing.mp4"), *clips[4:]]
    predictions = list(classifier.predict_many(videos, workers=workers, top_k=2))
    assert [prediction.video for prediction in predictions] == videos
    assert [number for number, prediction in enumerate(predictions) if prediction.error] == [1, 5]
    assert str(predictions[5]) == predictions[5].error
    assert all(len(prediction.top) == 2 for prediction in predictions if not prediction.error)
    assert np.allclose(predictions[0].probabilities, classifier.predict(clips[0]).probabilities, atol=1e-6)
    with pytest.raises(VideoError, match=r"text.mp4"):
        classifier.predict(text)


@pytest.mark.numerical
def test_predictions_do_not_depend_on_finished_or_unreadable_videos(classifier: Classifier, clips: list[str]):
    cfg = classifier.options(views=2)
    whole = dict(classifier.as_completed(cfg, clips, workers=0))
    rest = dict(classifier.as_completed(cfg, clips, workers=0, finished=[0, 2, 3]))
    assert sorted(rest) == [1, 4, 5]
    broken = dict(classifier.as_completed(cfg, [clips[0], "missing", *clips[2:]], workers=0))
    assert broken.pop(1).error
    assert all(equal(prediction, whole[number]) for found in (rest, broken) for number, prediction in found.items())


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ({"top_k": 0}, "top_k"),
        ({"top_k": 2.5}, "top_k"),
        ({"top_k": "3"}, "top_k"),
        ({"workers": -1}, "workers"),
        ({"workers": 1.5}, "workers"),
        ({"views": 0}, "NUM_ENSEMBLE_VIEWS"),
        ({"views": 2.5}, "NUM_ENSEMBLE_VIEWS"),
        ({"crops": True}, "NUM_SPATIAL_CROPS"),
        ({"sampler": 3}, "SAMPLER"),
    ],
)
def test_options_out_of_range(classifier: Classifier, clips: list[str], option: dict[str, object], named: str):
    with pytest.raises(UserError, match=named):
        list(classifier.predict_many(clips, **{"workers": 0, **option}))


@pytest.mark.parametrize("fps", [-1, float("nan"), "25"])
def test_invalid_frame_rates_of_files(classifier: Classifier, clips: list[str], fps: object):
    with pytest.raises(VideoError, match="fps"):
        classifier.predict(clips[0], fps=fps)


@pytest.mark.slow
def test_a_video_that_hangs_the_decoder_is_given_up(tiny_checkpoint: Path, clips: list[str], tmp_path: Path):
    os.mkfifo(tmp_path / "0.jpg")  # opening it waits for a writer
    classifier = load_model(tiny_checkpoint, "cpu", ["DATA.DECODE_TIMEOUT", "10.0"])
    for workers in (0, 1):
        hanging, readable = classifier.predict_many([tmp_path, clips[2]], workers=workers)
        assert hanging.error.startswith(str(tmp_path))
        assert "DATA.DECODE_TIMEOUT" in hanging.error
        assert not readable.error


FAMILIES = {
    "TimeSformer": [],
    "ViViT 2": ["MODEL.MODEL_NAME", "ViViT", "VIVIT.TUBELET_SIZE", "[1, 8, 8]", "VIVIT.MODEL", "2"],
    "torchvision": ["MODEL.MODEL_NAME", "torchvision/r3d_18"],
    "timm": ["MODEL.MODEL_NAME", "timm/test_resnet"],
    "TimeSformer, attentive": ["MODEL.HEAD", "attentive"],
    "timm, temporal": ["MODEL.MODEL_NAME", "timm/test_resnet", "MODEL.HEAD", "temporal"],
}


def classifier_of(family: str, tiny_checkpoint: Path) -> Classifier:
    """An untrained classifier of clips of 2 frames of 16 x 16 pixels."""
    cfg = get_cfg()
    cfg.merge_from_other_cfg(type(cfg)(yaml.safe_load(torch.load(tiny_checkpoint, weights_only=True)["cfg"])))
    cfg.merge_from_list(FAMILIES.get(family, ["MODEL.MODEL_NAME", family]))
    cfg.TIMESFORMER.PATCH_SIZE = 8 if family.startswith("Time") else 16
    model = build_model(cfg).eval()
    return Classifier(cfg, model, ("catch", "walk", "wave"), torch.device("cpu"), "", [])


@pytest.mark.numerical
@pytest.mark.parametrize("clips_at_once", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_computes_the_logits_from_the_embedding(
    family: str, clips_at_once: int, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
):
    clips = torch.randint(256, (3, 3, 2, 16, 16), dtype=torch.uint8)
    monkeypatch.setattr("timesformer.runtime.device._PIXELS_AT_ONCE", clips_at_once * clips[0, 0].numel())
    classifier = classifier_of(family, tiny_checkpoint)
    model = classifier.model
    scores, embeddings = classifier.compute(clips, features=True)
    layer = model.model.get_submodule(output_names(model)[0])
    assert (len(embeddings), embeddings.dtype) == (3, torch.float32)
    assert torch.allclose(layer(embeddings), scores, atol=1e-5)


class NoFloat64(TorchDispatchMode):
    """As on mps, float64 is an error."""

    def __torch_dispatch__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(result)):
            raise TypeError(f"{func} makes float64")
        return result


@pytest.mark.parametrize("family", [*FAMILIES, "VideoMAE"])
def test_a_model_computes_nothing_in_float64(family: str, tiny_checkpoint: Path):
    with pytest.raises(TypeError, match="float64"), NoFloat64():
        torch.zeros(1).double()
    classifier = classifier_of(family, tiny_checkpoint)
    assert all(tensor.dtype != torch.float64 for tensor in classifier.model.state_dict().values())
    clip = torch.randint(256, (3, 2, 16, 16), dtype=torch.uint8)
    with NoFloat64():
        classifier.compute(clip.unsqueeze(0), features=True)
        if family.startswith(("Time", "ViViT", "VideoMAE")):
            record = record_clip(classifier, SampledClip.of(clip, (0, 1), (0.0, 1.0), 0, is_bgr=False))
            for method in METHODS:
                attention_maps(record, 2, method)


def test_threads_share_a_model(classifier: Classifier, clips: list[str]):
    expected = map(classifier.predict, clips)
    with ThreadPoolExecutor(len(clips)) as threads:
        found = threads.map(lambda number: classifier.predict(clips[number], features=number % 2), range(len(clips)))
    assert all(map(equal, found, expected))


def test_configurations_of_other_versions_load(tiny_checkpoint: Path, tmp_path: Path):
    saved = yaml.safe_load(torch.load(tiny_checkpoint, weights_only=True)["cfg"])
    saved["MODEL"]["ARCH"] = "vit"  # the original's
    saved["DATA"] |= {"CAMERA": "left", "PATH_TO_DATA_DIR": "/no/longer/there"}
    saved["TRAIN"]["CHECKPOINT_FILE_PATH"] = "/gone.pyth"
    saved["NUM_GPUS"] = 4
    del saved["EMA"]
    classifier = load_model(changed(tiny_checkpoint, tmp_path, cfg=yaml.safe_dump(saved)), "cpu")
    assert classifier.cfg.NUM_GPUS == 0
    assert all(key in "".join(classifier.notes) for key in ("MODEL.ARCH", "DATA.CAMERA"))


def test_a_checkpoint_without_configuration_needs_one(tiny_checkpoint: Path, tiny_command: list[str], tmp_path: Path):
    bare = changed(tiny_checkpoint, tmp_path, cfg=None)
    with pytest.raises(CheckpointError, match=r"changed\.pyth"):
        load_model(bare, "cpu")
    assert load_model(bare, "cpu", cfg=tiny_command[1]).class_names == ("catch", "walk", "wave")


def test_classes_without_names_are_numbered_or_those_of_kinetics(tiny_checkpoint: Path, tmp_path: Path):
    nameless = changed(tiny_checkpoint, tmp_path, progress=None)
    assert load_model(nameless, "cpu").class_names == ("class 0", "class 1", "class 2")
    saved = torch.load(tiny_checkpoint, weights_only=True)
    cfg = yaml.safe_load(saved["cfg"])
    cfg["MODEL"]["NUM_CLASSES"], cfg["TRAIN"]["DATASET"] = 400, "kinetics"
    state = saved["model_state"] | {"model.head.weight": torch.zeros(400, 16), "model.head.bias": torch.zeros(400)}
    kinetics = changed(tiny_checkpoint, tmp_path, progress=None, model_state=state, cfg=yaml.safe_dump(cfg))
    assert load_model(kinetics, "cpu").class_names[:2] == ("abseiling", "air drumming")


@pytest.mark.parametrize(
    ("arguments", "error", "key"),
    [
        ({"path": "/no/best.pyth"}, CheckpointError, "/no/best.pyth"),
        ({"path": None}, CheckpointError, "path is None"),
        ({"path": ""}, CheckpointError, "path is ''"),
        ({"device": "abacus"}, UserError, r"abacus((?!xpected one of).)*expected one of cpu((?!xpected one of).)*$"),
        ({"device": "cuda:99"}, UserError, "cuda:99.*cpu"),
        ({"cfg_opts": ["DATA.SAMPLE", "uniform"]}, ConfigError, "DATA.SAMPLER"),
        ({"cfg_opts": ["MODEL.NUM_CLASSES", "4"]}, CheckpointError, "NUM_CLASSES"),
    ],
)
def test_loading_errors_name_their_cause(arguments: dict, error: type[UserError], key: str, tiny_checkpoint: Path):
    with pytest.raises(error, match=key):
        load_model(**{"path": tiny_checkpoint, "device": "cpu", **arguments})


def test_what_is_no_model_or_no_path_is_named(classifier: Classifier, clips: list[str]) -> None:
    for function in (find_actions, attention_of):
        with pytest.raises(UserError, match=r"output/demo.*load_model"):
            function("output/demo", clips[0])
    with pytest.raises(VideoError, match="empty"):
        classifier.predict("")
