"""Folders of transformers: predictions are equal before and after a conversion, and equal to those of transformers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import transformers
import yaml
from fvcore.common.config import CfgNode

from tests.conftest import load_command
from tests.models.small import randomize
from timesformer.config import get_cfg
from timesformer.inference.classifier import Classifier, load_model
from timesformer.models import build_model
from timesformer.models.weights.convert import convert
from timesformer.models.weights.files import CheckpointError

pytestmark = pytest.mark.numerical

CLASSES = ("catch", "пас", "投げる")
KINDS = ("divided_space_time", "joint_space_time", "space_only", "vivit", "videomae", "light")
SMALL = """
DATA: {NUM_FRAMES: 4, SAMPLING_RATE: 3, TRAIN_CROP_SIZE: 32, TEST_CROP_SIZE: 32, TRAIN_JITTER_SCALES: [32, 40],
       MEAN: [0.4, 0.45, 0.5], STD: [0.2, 0.225, 0.25], SAMPLER: uniform, PATH_TO_DATA_DIR: /home/someone/clips}
TRAIN: {DATASET: folder}
TEST: {DATASET: folder, NUM_ENSEMBLE_VIEWS: 2, NUM_SPATIAL_CROPS: 1}
MODEL: {NUM_CLASSES: 3, DROPOUT_RATE: 0.3}
"""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 frames of 44 x 32 pixels, all different, in a codec that loses nothing: every decoder gives the same."""
    path, random = tmp_path_factory.mktemp("video") / "clip.mkv", np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 44, 32, "bgr0"
        for number in range(40):
            place = np.stack(np.broadcast_arrays(np.linspace(0, 150, 44), np.linspace(0, 150, 32)[:, None], 80.0), -1)
            picture = place + np.array([2 * number, 20, 60 - number]) + random.normal(0, 20, (32, 44, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), "rgb24")))
        container.mux(stream.encode())
    return str(path)


def checkpoint(folder: Path, kind: str = KINDS[0], **options: Any) -> Path:
    """A run's checkpoint of a small model with random weights; options by KEY with __ for the dot."""
    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode.load_cfg(SMALL))
    if kind == "light":
        cfg.merge_from_list(["MODEL.MODEL_NAME", "LightTimeSformer", "TIMESFORMER.VARIANT", "tiny"])
    else:
        cfg.merge_from_list(["TIMESFORMER.EMBED_DIM", 32, "TIMESFORMER.DEPTH", 2, "TIMESFORMER.NUM_HEADS", 4])
    if kind in ("vivit", "videomae"):
        name = {"vivit": "ViViT", "videomae": "VideoMAE"}[kind]
        cfg.merge_from_list(["MODEL.MODEL_NAME", name, "VIVIT.TUBELET_SIZE", [2, 8, 8]])
    else:
        cfg.TIMESFORMER.PATCH_SIZE = 8
    if kind in KINDS[:3]:
        cfg.TIMESFORMER.ATTENTION_TYPE = kind
    cfg.merge_from_list([part for key, value in options.items() for part in (key.replace("__", "."), value)])
    model = randomize(build_model(cfg, fresh=True), std=0.25)
    progress = {"epoch": 2, "class_names": list(CLASSES)}
    path = folder / "best.pyth"
    torch.save({"epoch": 1, "model_state": model.state_dict(), "cfg": cfg.dump(), "progress": progress}, path)
    return path


def used(cfg: CfgNode) -> dict[str, Any]:
    """The options that say how a model is used, without paths."""
    options = yaml.safe_load(cfg.dump())
    del options["DATA"]["PATH_TO_DATA_DIR"]
    test = {key: options["TEST"][key] for key in ("NUM_ENSEMBLE_VIEWS", "NUM_SPATIAL_CROPS", "DATASET")}
    return {name: options[name] for name in ("DATA", "MODEL", "TIMESFORMER", "VIVIT", "VIDEOMAE", "RNG_SEED")} | {
        "TEST": test
    }


def converted(source: Path, folder: Path) -> Iterator[Classifier]:
    """The checkpoint as a folder, from that as .pyth, from that as a folder, and from that as safetensors."""
    for name, to in (("hf", "hf"), ("back.pyth", "pyth"), ("again", "hf"), ("out.safetensors", "safetensors")):
        convert(str(source), folder / name, to)
        source = folder / name
        yield load_model(source, "cpu")


@pytest.mark.slow
class TestRoundTrip:
    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            *((kind, {}) for kind in KINDS),
            (KINDS[0], {"DATA__SPATIAL_MODE": "resize", "DATA__TRAIN_JITTER_SCALES": [40, 48]}),
            (KINDS[0], {"DATA__SAMPLER": "random", "DATA__SAMPLER_ORDERED": False, "RNG_SEED": 7}),
            (KINDS[0], {"DATA__SAMPLER": "", "TEST__DATASET": "ssv2", "TRAIN__MIXED_PRECISION": "bf16"}),
            (KINDS[0], {"DATA__TEST_SAMPLER": "equidistant", "DATA__ENSEMBLE_METHOD": "max"}),
            (KINDS[0], {"DATA__PRE_SAMPLING__ENABLED": True, "DATA__SAMPLING_RATE": 16}),
            (KINDS[0], {"TIMESFORMER__MLP_RATIO": 61 / 32, "TEST__NUM_SPATIAL_CROPS": 3}),
        ],
        ids=str,
    )
    def test_predictions(self, tmp_path: Path, video: str, kind: str, options: dict[str, Any]) -> None:
        original = load_model(checkpoint(tmp_path, kind, **options), "cpu")
        expected = original.predict(video)
        assert len({round(p, 3) for p in expected.probabilities.tolist()}) == len(CLASSES)
        assert expected.top[0][1] < 0.99
        for classifier in converted(tmp_path / "best.pyth", tmp_path):
            assert np.array_equal(classifier.predict(video).probabilities, expected.probabilities)
            assert classifier.class_names == CLASSES
            assert used(classifier.cfg) == used(original.cfg)
        assert "someone" not in (tmp_path / "hf/config.json").read_text()

    @pytest.mark.parametrize(
        ("kind", "crops", "interpolation"),
        [("divided_space_time", 3, "bicubic"), ("vivit", 1, "legacy"), ("videomae", 1, "bicubic")],
    )
    def test_test_crop_size(self, tmp_path: Path, video: str, kind: str, crops: int, interpolation: str) -> None:
        options = {"TIMESFORMER__POS_EMBED_INTERPOLATION": interpolation, "TEST__NUM_SPATIAL_CROPS": crops}
        path = checkpoint(tmp_path, kind, DATA__TEST_CROP_SIZE=48, **options)
        expected = load_model(path, "cpu").predict(video).probabilities
        for classifier in converted(path, tmp_path):
            assert classifier.cfg.DATA.TEST_CROP_SIZE == 48
            np.testing.assert_allclose(classifier.predict(video).probabilities, expected, rtol=0, atol=1e-6)

    def test_bgr_weights(self, tmp_path: Path, video: str) -> None:
        path = checkpoint(tmp_path, DATA__REVERSE_INPUT_CHANNEL=True)
        expected = load_model(path, "cpu").predict(video).probabilities
        for classifier in converted(path, tmp_path):
            assert not classifier.cfg.DATA.REVERSE_INPUT_CHANNEL
            assert list(classifier.cfg.DATA.MEAN) == [0.5, 0.45, 0.4]
            np.testing.assert_allclose(classifier.predict(video).probabilities, expected, rtol=0, atol=1e-5)

    def test_edited_preprocessor_takes_precedence(self, tmp_path: Path) -> None:
        convert(str(checkpoint(tmp_path)), tmp_path / "hf", "hf")
        file = tmp_path / "hf/preprocessor_config.json"
        changed = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}
        changed |= {"size": {"shortest_edge": 56}, "crop_size": {"height": 48, "width": 48}}
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))
        data = load_model(tmp_path / "hf", "cpu").cfg.DATA
        assert (list(data.MEAN), list(data.STD)) == ([0.1, 0.2, 0.3], [1.0, 1.0, 1.0])
        assert (data.TEST_CROP_SIZE, data.TRAIN_JITTER_SCALES[0], data.SAMPLING_RATE) == (48, 56, 3)


def their_probabilities(folder: Path, frames: list[np.ndarray]) -> np.ndarray:
    """What transformers makes of frames, uint8 [H, W, 3], with the processor and the model of a folder."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModelForVideoClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**processor(frames, return_tensors="pt")).logits[0].softmax(-1).numpy()


def frames_of(video: str, numbers: tuple[int, ...]) -> list[np.ndarray]:
    with av.open(video) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [decoded[number] for number in numbers]


def save_folder(folder: Path, kind: str, processor: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A folder that transformers itself writes."""
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    size |= {"image_size": 32, "num_frames": 4, "num_labels": 3} | changes
    if kind == "videomae":
        config = transformers.VideoMAEConfig(**size, patch_size=8)
        model = transformers.VideoMAEForVideoClassification(config)
    elif kind == "vivit":
        model = transformers.VivitForVideoClassification(transformers.VivitConfig(**size, tubelet_size=[2, 8, 8]))
    else:
        model = transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(**size, patch_size=8))
    randomize(model).save_pretrained(folder)
    if processor is not None:
        name = "VivitImageProcessor" if kind == "vivit" else "VideoMAEImageProcessor"
        sides = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        getattr(transformers, name)(**(sides | processor)).save_pretrained(folder)
    return folder


HUB_TIMESFORMER = {"image_mean": [0.45] * 3, "image_std": [0.225] * 3}
HUB_VIVIT = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


class TestForeignFolders:
    @pytest.mark.parametrize(
        ("kind", "processor", "mean", "std"),
        [
            ("timesformer", HUB_TIMESFORMER, 0.45, 0.225),
            ("timesformer", HUB_TIMESFORMER | {"do_rescale": False}, 0.45 / 255, 0.225 / 255),
            ("timesformer", {"do_normalize": False}, 0.0, 1.0),
            ("videomae", HUB_TIMESFORMER, 0.45, 0.225),
            ("vivit", {"do_normalize": False}, 0.5, 0.5),
            ("vivit", HUB_VIVIT | {"offset": False, "rescale_factor": 1 / 255}, 0.5, 0.5),
            ("vivit", HUB_VIVIT, 0.75, 0.25),
        ],
    )
    def test_scores_of_the_same_frames(
        self, tmp_path: Path, video: str, kind: str, processor: dict[str, Any], mean: float, std: float
    ) -> None:
        save_folder(tmp_path, kind, processor)
        classifier = load_model(tmp_path, "cpu")
        np.testing.assert_allclose(classifier.cfg.DATA.MEAN, [mean] * 3, rtol=1e-6)
        np.testing.assert_allclose(classifier.cfg.DATA.STD, [std] * 3, rtol=1e-6)
        prediction = classifier.predict(video, keep_clips=True)
        frames = frames_of(video, prediction.clips[0].numbers)
        expected = their_probabilities(tmp_path, frames)
        assert expected.max() < 0.99 or "do_rescale" in processor
        np.testing.assert_allclose(prediction.probabilities, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("size", "crop", "levels"),
        [
            ({"shortest_edge": 32}, 32, 0.001),
            ({"shortest_edge": 48}, 32, 1.01),  # rounded otherwise
            ({"height": 32, "width": 32}, None, 40),  # antialiased
            ({"height": 64, "width": 64}, None, 1.01),
        ],
    )
    def test_clips_of_the_processor(
        self, tmp_path: Path, video: str, size: dict[str, int], crop: int | None, levels: float
    ) -> None:
        cut = {"crop_size": {"height": crop, "width": crop}} if crop else {"do_center_crop": False}
        side = crop or size["height"]
        save_folder(tmp_path, "timesformer", HUB_TIMESFORMER | {"size": size} | cut, image_size=side)
        clip = load_model(tmp_path, "cpu").clips(video)[0]
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
        theirs = processor(frames_of(video, clip.numbers), return_tensors="pt").pixel_values[0].transpose(0, 1)
        difference = (theirs * 0.225 + 0.45) * 255 - clip.clip
        assert difference.abs().max() < levels
        # Roundings of the same value differ by a level, in fewer than half of the pixels.
        assert difference.abs().mean() < max(levels / 2 if levels < 2 else levels / 5, 0.001)

    @pytest.mark.parametrize(
        ("kind", "frames", "classes", "rate", "sampler"),
        [
            ("timesformer", 8, 3, 32, ""),
            ("timesformer", 8, 174, 32, "segment"),
            ("vivit", 4, 3, 2, ""),
            ("videomae", 4, 3, 4, ""),
        ],
    )
    def test_assumed_sampling(
        self, tmp_path: Path, kind: str, frames: int, classes: int, rate: int, sampler: str
    ) -> None:
        save_folder(tmp_path, kind, num_frames=frames, num_labels=classes)
        classifier = load_model(tmp_path, "cpu")
        data, test = classifier.cfg.DATA, classifier.cfg.TEST
        assert (frames, rate, sampler) == (data.NUM_FRAMES, data.SAMPLING_RATE, data.SAMPLER)
        means = {"timesformer": [0.45] * 3, "vivit": [0.5] * 3, "videomae": [0.485, 0.456, 0.406]}
        assert list(data.MEAN) == means[kind]
        assert (test.NUM_ENSEMBLE_VIEWS, test.NUM_SPATIAL_CROPS) == (1, 1)
        assert any("DATA.SAMPL" in note for note in classifier.notes)

    def test_newer_processor_files_take_precedence(self, tmp_path: Path) -> None:
        save_folder(tmp_path, "timesformer", HUB_TIMESFORMER)
        newer = {"image_mean": [0.3] * 3, "image_std": [0.3] * 3, "video_processor_type": "VideoMAEVideoProcessor"}
        (tmp_path / "processor_config.json").write_text(json.dumps({"video_processor": newer}))
        assert list(load_model(tmp_path, "cpu").cfg.DATA.MEAN) == [0.3] * 3

    def test_unsupported_processor(self, tmp_path: Path) -> None:
        save_folder(tmp_path, "timesformer", HUB_TIMESFORMER | {"crop_size": {"height": 32, "width": 24}})
        with pytest.raises(CheckpointError, match="crop_size"):
            load_model(tmp_path, "cpu")


@pytest.mark.slow
def test_converted_videomae_predicts_as_transformers(
    tmp_path: Path, video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder of transformers, by the command lines, to the scores in a file."""
    save_folder(tmp_path / "hf", "videomae", {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]})
    (clip,) = load_model(tmp_path / "hf", "cpu").clips(video)
    expected = their_probabilities(tmp_path / "hf", frames_of(video, clip.numbers))
    for source, target, to in (("hf", "a.pyth", "pyth"), ("a.pyth", "b", "hf"), ("b", "c.safetensors", "safetensors")):
        run_tool(monkeypatch, "convert", tmp_path / source, tmp_path / target, "--to", to)
        scores = tmp_path / f"{target}.json"
        options = ("--device", "cpu", "--workers", 0, "--top-k", 3, "--output", scores)
        run_tool(monkeypatch, "predict", "--checkpoint", tmp_path / target, video, *options)
        (found,) = json.loads(scores.read_text())["videos"]
        found = {answer["class"]: answer["probability"] for answer in found["top"]}
        np.testing.assert_allclose(sorted(found.values()), sorted(expected), rtol=0, atol=1e-5)
        assert found[f"class {expected.argmax()}"] == max(found.values())


def run_tool(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, arguments)])
    assert load_command(name).main() == 0


@pytest.mark.slow
class TestPipeline:
    """`transformers.pipeline("video-classification")` on a video file."""

    def compare(self, path: Path, video: str, sampler: str, **arguments: Any) -> None:
        folder = path.parent / "hf"
        convert(str(path), folder, "hf")
        classify = transformers.pipeline("video-classification", model=str(folder))
        if arguments:
            classify.video_processor = None  # as in the versions of transformers that had none for these models
        theirs = classify(video, top_k=3, **arguments)
        ours = load_model(path, "cpu").predict(video, views=1, crops=1, sampler=sampler)
        assert [answer["label"] for answer in theirs] == [name for name, _ in ours.top]
        probabilities = [probability for _, probability in ours.top]
        assert probabilities[0] < 0.99
        np.testing.assert_allclose([answer["score"] for answer in theirs], probabilities, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("kind", ["divided_space_time", "vivit", "videomae"])
    def test_first_frames(self, tmp_path: Path, video: str, kind: str) -> None:
        self.compare(checkpoint(tmp_path, kind), video, "dense", num_frames=4, frame_sampling_rate=3)

    @pytest.mark.parametrize(
        "options", [{"DATA__REVERSE_INPUT_CHANNEL": True, "TEST__NUM_SPATIAL_CROPS": 3}, {"DATA__TRAIN_CROP_SIZE": 48}]
    )
    @pytest.mark.parametrize("kind", ["divided_space_time", "vivit", "videomae"])
    def test_frames_of_the_whole_video(self, tmp_path: Path, video: str, kind: str, options: dict[str, Any]) -> None:
        pytest.importorskip("torchcodec.decoders", exc_type=Exception)
        if not hasattr(transformers, "VivitVideoProcessor"):
            pytest.skip("this transformers has no video processors for these models")
        self.compare(checkpoint(tmp_path, kind, **options), video, "equidistant")
