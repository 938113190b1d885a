"""Using a trained model in Python: what it says is what a test says, and what cannot be used is told."""

import csv
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import timesformer
from timesformer.config import get_cfg
from timesformer.config.load import ConfigError
from timesformer.datasets.decoding.open import VideoError
from timesformer.errors import UserError
from timesformer.inference.classifier import Classifier, HeadInput, load_model
from timesformer.models import build_model
from timesformer.models.weights.loading import CheckpointError

VIEWS = ["TEST.NUM_ENSEMBLE_VIEWS", "2", "TEST.NUM_SPATIAL_CROPS", "3", "TEST.BATCH_SIZE", "4"]


@pytest.fixture
def classifier(tiny_checkpoint: Path) -> Classifier:
    return load_model(tiny_checkpoint, "cpu")


@pytest.fixture(scope="session")
def clips(tiny_data: Path) -> list[str]:
    return sorted(str(path) for path in tiny_data.glob("test/*/*"))


def changed(checkpoint: Path, folder: Path, **content: object) -> Path:
    """The checkpoint with some of its content replaced, or left out where None."""
    kept = {**torch.load(checkpoint, weights_only=True), **content}
    torch.save({key: value for key, value in kept.items() if value is not None}, folder / "changed.pyth")
    return folder / "changed.pyth"


def same(one: timesformer.inference.classifier.Prediction, other: timesformer.inference.classifier.Prediction) -> bool:
    return np.array_equal(one.probabilities, other.probabilities) and one.top == other.top


@pytest.mark.numerical
@pytest.mark.parametrize("more", [[], ["DATA.REVERSE_INPUT_CHANNEL", "True", "DATA.ENSEMBLE_METHOD", "max"]])
def test_predictions_are_those_of_a_test(more, tiny_command, tiny_checkpoint, tiny_data, run_net, tmp_path):
    alone = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(tiny_checkpoint), "OUTPUT_DIR", str(tmp_path)]
    assert run_net(*tiny_command, *alone, *VIEWS, *more).code == 0
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    classifier = timesformer.load_model(tiny_checkpoint, "cpu", [*VIEWS, *more])
    paths = [tiny_data / "test" / row["video"] for row in rows]
    for row, many, one in zip(
        rows, classifier.predict_many(paths, workers=0), map(classifier.predict, paths), strict=True
    ):
        for prediction in (many, one):
            assert prediction.num_views == 6
            for rank, (name, probability) in enumerate(prediction.top, start=1):
                assert name == row[f"class_{rank}"]
                assert probability == pytest.approx(float(row[f"probability_{rank}"]), abs=1e-5)
            assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-6)


def test_many_come_in_order_with_the_reasons_for_those_that_cannot_be_read(classifier, clips, tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    videos = [clips[0], str(text), *clips[1:4], str(tmp_path / "missing.mp4"), *clips[4:]]
    for workers in (0, 2):
        predictions = list(classifier.predict_many(videos, workers=workers, top_k=2))
        assert [prediction.video for prediction in predictions] == videos
        assert [prediction.video for prediction in predictions if prediction.error] == [videos[1], videos[5]]
        assert "no such file" in predictions[5].error
        assert str(predictions[5]) == predictions[5].error
        assert all(len(prediction.top) == 2 for prediction in predictions if not prediction.error)
    assert np.allclose(predictions[0].probabilities, classifier.predict(clips[0]).probabilities, atol=1e-6)
    with pytest.raises(VideoError, match=r"text.mp4: not a video"):
        classifier.predict(text)


@pytest.mark.numerical
def test_a_prediction_is_the_same_to_the_last_digit_whichever_videos_were_done_before_or_fail(classifier, clips):
    cfg = classifier.options(views=2)
    whole = dict(classifier.as_completed(cfg, clips, workers=0))
    rest = dict(classifier.as_completed(cfg, clips, workers=0, finished=bytes([1, 0, 1, 1, 0, 0])))
    assert sorted(rest) == [1, 4, 5]
    assert all(same(rest[number], whole[number]) for number in rest)
    broken = dict(classifier.as_completed(cfg, [clips[0], "missing", *clips[2:]], workers=0))
    assert broken[1].error
    assert all(same(broken[number], whole[number]) for number in (0, 2, 3, 4, 5))


def test_chance_depends_on_the_seed_and_not_on_the_company(classifier, clips):
    alone = classifier.predict(clips[3], sampler="random", views=3)
    among = list(classifier.predict_many(clips, sampler="random", views=3, workers=0))[3]
    assert np.allclose(alone.probabilities, among.probabilities, atol=1e-6)
    drawn = [clip.numbers for clip in classifier.clips(clips[3], sampler="random", views=3)]
    assert len(set(drawn)) > 1


def fifo(folder: Path) -> Path:
    """A clip that hangs whoever opens it."""
    folder.mkdir()
    os.mkfifo(folder / "0.jpg")
    return folder


def when_opened(clip: Path, then: Callable[[], None]) -> threading.Thread:
    """Calls `then` in another thread when some process hangs at the clip, which goes on to hang."""

    def wait() -> None:
        while True:
            try:
                held.append(os.open(clip / "0.jpg", os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # ENXIO: nobody has it open yet
                time.sleep(0.01)
            else:
                return then()

    held: list[int] = []
    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def readers_of(file: Path) -> list[int]:
    """Processes, other than this one, that have a file open."""
    found = []
    for link in Path("/proc").glob("[1-9]*/fd/*"):
        with suppress(OSError):  # it ends
            if os.readlink(link) == str(file) and int(link.parts[2]) != os.getpid():
                found.append(int(link.parts[2]))
    return found


def test_videos_that_make_the_decoder_hang_or_crash_are_told_and_the_others_predicted(tiny_checkpoint, clips, tmp_path):
    def crash() -> None:
        while not (readers := readers_of(crashing / "0.jpg")):  # it is about to read
            time.sleep(0.01)
        for reader in readers:
            os.kill(reader, signal.SIGSEGV)

    crashing = fifo(tmp_path / "crashing")
    thread = when_opened(crashing, crash)
    classifier = load_model(tiny_checkpoint, "cpu")
    predictions = list(classifier.predict_many([clips[0], crashing, clips[1]], workers=1))
    thread.join()
    assert predictions[1].error == f"{crashing}: the decoder crashed (SIGSEGV)"
    classifier = load_model(tiny_checkpoint, "cpu", ["DATA.DECODE_TIMEOUT", "2.0"])
    for workers in (0, 1):
        hanging = fifo(tmp_path / f"hanging{workers}")
        predictions += list(classifier.predict_many([hanging, clips[2]], workers=workers))
        assert "decoding took longer than DATA.DECODE_TIMEOUT 2 seconds" in predictions[-2].error
        assert predictions[-2].error.startswith(str(hanging))
    with pytest.raises(VideoError, match="decoding took longer"):
        classifier.predict(fifo(tmp_path / "alone"))
    assert [not prediction.error for prediction in predictions] == [True, False, True, False, True, False, True]


def test_clips_are_what_the_model_gets_and_what_a_person_sees(tiny_checkpoint, tmp_path):
    folder = tmp_path / "red"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(np.full((20, 24, 3), (200, 40 * number, 0), np.uint8)).save(folder / f"{number}.png")
    options = ["DATA.SAMPLER", "equidistant", "DATA.REVERSE_INPUT_CHANNEL", "True", "DATA.NUM_FRAMES", "3"]
    classifier = load_model(tiny_checkpoint, "cpu", options)
    prediction = classifier.predict(folder, crops=3, keep_clips=True)
    assert [clip.view for clip in prediction.clips] == [0, 1, 2]
    many = next(classifier.predict_many([folder], crops=3, keep_clips=True, workers=0))
    for clip, again in zip(prediction.clips, many.clips, strict=True):
        assert clip.numbers == again.numbers == (0, 2, 4)
        assert all(map(math.isnan, clip.times))  # a folder of frames has no clock
        assert clip.frames.shape == (3, 16, 16, 3)
        assert clip.frames[2, 0, 0].tolist() == [200, 160, 0]
        assert clip.clip[:, 2, 0, 0].tolist() == [0, 160, 200]
        assert torch.equal(clip.clip, again.clip)
        assert np.array_equal(clip.frames, again.frames)


def test_times_are_those_of_the_frames_in_the_video(tiny_checkpoint, tmp_path):
    import av

    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (clip,) = load_model(tiny_checkpoint, "cpu", ["DATA.SAMPLING_RATE", "4"]).clips(tmp_path / "clip.mp4")
    assert clip.numbers == (0, 4)
    assert clip.times == (0.0, 0.4)


FAMILIES = {
    "TimeSformer": [],
    "TimeSformer, space_only": ["TIMESFORMER.ATTENTION_TYPE", "space_only"],
    "ViViT 1": ["MODEL.MODEL_NAME", "ViViT", "VIVIT.TUBELET_SIZE", "[1, 8, 8]"],
    "ViViT 2": ["MODEL.MODEL_NAME", "ViViT", "VIVIT.TUBELET_SIZE", "[1, 8, 8]", "VIVIT.MODEL", "2"],
    "ViViT 3": ["MODEL.MODEL_NAME", "ViViT", "VIVIT.TUBELET_SIZE", "[1, 8, 8]", "VIVIT.MODEL", "3"],
    "torchvision": ["MODEL.MODEL_NAME", "torchvision/r3d_18"],
    "timm": ["MODEL.MODEL_NAME", "timm/test_resnet"],
}


@pytest.mark.numerical
@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_are_what_the_head_makes_the_logits_of(family, tiny_checkpoint, tmp_path):
    text = torch.load(tiny_checkpoint, weights_only=True)["cfg"]
    cfg = get_cfg()
    cfg.merge_from_other_cfg(type(cfg)(yaml.safe_load(text)))
    cfg.merge_from_list([*FAMILIES[family], "TIMESFORMER.PATCH_SIZE", 8 if family.startswith("Time") else 16])
    content = {"model_state": build_model(cfg).state_dict(), "cfg": cfg.dump()}
    torch.save(content, tmp_path / "other.pyth")
    classifier = load_model(tmp_path / "other.pyth", "cpu")
    clip = torch.randint(256, (2, 3, 2, 16, 16), dtype=torch.uint8)
    scores, embeddings = classifier.compute(clip, features=True)
    network = classifier.model.model
    head = network.get_submodule(getattr(classifier.model, "head_names", ("head",))[0])
    assert embeddings.dtype == torch.float32
    assert torch.allclose(head(embeddings), scores, atol=1e-5)


def test_embeddings_of_a_head_over_places_are_their_mean():
    class Net(nn.Module):
        head_names = ("head",)

        def __init__(self, head: nn.Module) -> None:
            super().__init__()
            self.model = nn.ModuleDict({"head": head})

    for head, features in ((nn.Conv3d(5, 2, 1), torch.rand(4, 5, 2, 3, 3)), (nn.Linear(5, 2), torch.rand(4, 2, 3, 5))):
        model = Net(head)
        with HeadInput(model) as seen:
            model.model["head"](features)
        mean = features.mean((2, 3, 4)) if isinstance(head, nn.Conv3d) else features.mean((1, 2))
        assert torch.allclose(seen.embeddings(4), mean)
        assert torch.allclose(seen.embeddings(2), mean.view(2, 2, 5).mean(1))  # two frames of a clip


@pytest.mark.numerical
def test_an_embedding_is_the_mean_over_the_views(classifier, clips):
    views = torch.stack([clip.clip for clip in classifier.clips(clips[0], crops=3)])
    _, embeddings = classifier.compute(views, features=True)
    embedding = classifier.embed(clips[0], crops=3)
    assert embedding.dtype == np.float32
    assert np.allclose(embedding, embeddings.mean(0), atol=1e-6)
    many = next(classifier.predict_many(clips[:1], crops=3, features=True, workers=0))
    assert np.allclose(many.embedding, embedding, atol=1e-6)
    assert classifier.predict(clips[0]).embedding is None


def test_a_classifier_says_what_it_is(classifier, tiny_checkpoint):
    said = repr(classifier)
    for part in (
        "3 classes: catch, walk, wave",
        "TimeSformer, 2 frames of 16 x 16 pixels, 1 view",
        str(tiny_checkpoint),
    ):
        assert part in said
    assert not classifier.model.training
    assert classifier.fingerprint() == load_model(tiny_checkpoint, "cpu").fingerprint()


def test_several_threads_may_use_one_model(classifier, clips):
    expected = [classifier.predict(clip).probabilities for clip in clips]
    got: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda i=i: got.update({i: classifier.predict(clips[i], features=i % 2).probabilities}))
        for i in range(len(clips))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(got[i], expected[i]) for i in range(len(clips)))


def test_configurations_of_other_versions_are_taken_as_far_as_they_go(tiny_checkpoint, tmp_path):
    then = yaml.safe_load(torch.load(tiny_checkpoint, weights_only=True)["cfg"])
    then["MODEL"]["ARCH"] = "vit"  # the original's
    then["DATA"]["CAMERA"] = "left"
    then["DATA"]["PATH_TO_DATA_DIR"] = "/no/longer/there"
    then["TRAIN"]["CHECKPOINT_FILE_PATH"] = "/gone.pyth"
    then["NUM_GPUS"] = 4
    del then["EMA"]
    classifier = load_model(changed(tiny_checkpoint, tmp_path, cfg=yaml.safe_dump(then)), "cpu")
    assert classifier.cfg.NUM_GPUS == 0
    notes = "\n".join(classifier.notes)
    assert "MODEL.ARCH" in notes
    assert "DATA.CAMERA is not an option" in notes


def test_a_checkpoint_without_configuration_needs_one(tiny_checkpoint, tiny_command, tmp_path):
    bare = changed(tiny_checkpoint, tmp_path, cfg=None)
    with pytest.raises(CheckpointError, match=r"changed.pyth holds no configuration.*--cfg FILE"):
        load_model(bare, "cpu")
    assert load_model(bare, "cpu", cfg=tiny_command[1]).class_names == ("catch", "walk", "wave")


def test_classes_without_names_are_numbered_or_kinetics(tiny_checkpoint, tmp_path):
    nameless = changed(tiny_checkpoint, tmp_path, progress=None)
    assert load_model(nameless, "cpu").class_names == ("class 0", "class 1", "class 2")
    exported = changed(tiny_checkpoint, tmp_path, progress=None, class_names=["a", "b", "c"])  # as to safetensors
    assert load_model(exported, "cpu").class_names == ("a", "b", "c")
    then = torch.load(tiny_checkpoint, weights_only=True)
    cfg = yaml.safe_load(then["cfg"])
    cfg["MODEL"]["NUM_CLASSES"], cfg["TRAIN"]["DATASET"] = 400, "kinetics"
    state = then["model_state"] | {"model.head.weight": torch.zeros(400, 16), "model.head.bias": torch.zeros(400)}
    kinetics = changed(tiny_checkpoint, tmp_path, progress=None, model_state=state, cfg=yaml.safe_dump(cfg))
    classifier = load_model(kinetics, "cpu")
    assert classifier.class_names[:2] == ("abseiling", "air drumming")
    assert "taken for Kinetics-400's" in repr(classifier)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"path": "/no/best.pyth"}, CheckpointError, "/no/best.pyth cannot be read as a checkpoint"),
        ({"device": "abacus"}, UserError, "the device abacus cannot be used"),
        ({"cfg_opts": ["DATA.SAMPLE", "uniform"]}, ConfigError, "nearest is DATA.SAMPLER"),
        (
            {"cfg_opts": ["MODEL.NUM_CLASSES", "4"]},
            CheckpointError,
            "best.pyth does not fit: it is of 3 classes .*catch, walk, wave.*NUM_CLASSES is 4",
        ),
    ],
)
def test_what_cannot_be_used_is_told(arguments, error, said, tiny_checkpoint):
    with pytest.raises(error, match=said):
        load_model(**{"path": tiny_checkpoint, "device": "cpu", **arguments})


def test_impossible_views_are_told(classifier, clips):
    with pytest.raises(ConfigError, match=r"TEST.NUM_SPATIAL_CROPS is 2, expected 1 or 3"):
        classifier.predict(clips[0], crops=2)
    with pytest.raises(ConfigError, match=r"TEST.NUM_ENSEMBLE_VIEWS is 0"):
        next(classifier.predict_many(clips, views=0))
