"""Predictions for Python objects equal those for files of the same frames, as ffmpeg writes and decodes them."""

import base64
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import timesformer
from tests.datasets.made_videos import moving_scene
from timesformer.datasets.decoding.open import VideoError, open_video
from timesformer.inference.classifier import Classifier, Prediction, load_model

FPS = 25


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Frames, uint8 [23, 40, 56, 3]."""
    return np.stack(moving_scene(23, 56, 40))


@pytest.fixture(scope="module")
def video(frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lossless MP4 file of these frames."""
    if not shutil.which("ffmpeg"):
        pytest.skip("needs the program ffmpeg")
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "56x40", "-r", str(FPS), "-i", "-"]
    command = ["ffmpeg", "-v", "error", *raw, "-c:v", "libx264rgb", "-qp", "0", str(path)]
    subprocess.run(command, input=frames.tobytes(), check=True)
    with open_video(path) as reader:
        assert np.array_equal(reader.read(range(23)), frames)
    return path


@pytest.fixture(scope="module")
def classifier(tiny_checkpoint: Path) -> Classifier:
    """Three dense clips of three crops, in batches that part videos."""
    options = ["DATA.SAMPLER", "dense", "DATA.SAMPLING_RATE", "4", "TEST.NUM_ENSEMBLE_VIEWS", "3"]
    return load_model(tiny_checkpoint, "cpu", [*options, "TEST.NUM_SPATIAL_CROPS", "3", "TEST.BATCH_SIZE", "4"])


class Pipe(io.RawIOBase):
    """A file object without positions, which returns a few bytes at a time."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(memoryview(buffer)[:1000])


def moved_file(path: Path) -> io.BytesIO:
    file = io.BytesIO(path.read_bytes())
    file.seek(100)
    return file


CONTENTS: dict[str, Callable[[Path], object]] = {
    "str": str,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "seekable file": moved_file,
    "pipe": lambda path: Pipe(path.read_bytes()),
}
FRAMES: dict[str, Callable[[np.ndarray], object]] = {
    "array": lambda frames: frames,
    "view": lambda frames: np.repeat(frames, 2, axis=0)[::2],
    "tensor": torch.from_numpy,
    "requires no memory order": lambda frames: torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()).permute(
        0, 2, 3, 1
    ),
    "list of arrays": list,
    "tuple of tensors": lambda frames: tuple(map(torch.from_numpy, frames)),
    "PIL images": lambda frames: list(map(Image.fromarray, frames)),
}


def equal(one: Prediction, other: Prediction) -> bool:
    return np.array_equal(one.probabilities, other.probabilities) and one.top == other.top


@pytest.mark.parametrize("kind", CONTENTS)
def test_the_content_of_a_file_is_predicted_as_the_file(kind: str, classifier: Classifier, video: Path):
    expected = classifier.predict(video, keep_clips=True)
    found = classifier.predict(CONTENTS[kind](video), keep_clips=True)
    assert equal(found, expected)
    assert [clip.times for clip in found.clips] == [clip.times for clip in expected.clips]


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_in_memory_are_predicted_as_their_file(
    kind: str, classifier: Classifier, video: Path, frames: np.ndarray
):
    expected = classifier.predict(video, keep_clips=True)
    found = classifier.predict(FRAMES[kind](frames), fps=FPS, keep_clips=True)
    assert [clip.numbers for clip in found.clips] == [clip.numbers for clip in expected.clips]
    assert np.allclose([clip.times for clip in found.clips], [clip.times for clip in expected.clips])
    assert equal(found, expected)
    assert np.array_equal(classifier.embed(FRAMES[kind](frames), fps=FPS), classifier.embed(video))
    clips = classifier.clips(FRAMES[kind](frames), fps=FPS)
    assert all(np.array_equal(one.frames, other.frames) for one, other in zip(clips, expected.clips, strict=True))


def test_paths_of_images_are_predicted_as_their_folder(classifier: Classifier, frames: np.ndarray, tmp_path: Path):
    paths = [tmp_path / f"{number}.png" for number in range(len(frames))]
    for path, frame in zip(paths, frames, strict=True):
        Image.fromarray(frame).save(path)
    found = classifier.predict(paths, fps=FPS)
    assert equal(found, classifier.predict(tmp_path, fps=FPS))
    assert not equal(found, classifier.predict(tmp_path))  # 30 frames per second are assumed
    assert equal(classifier.predict(paths, fps=30), classifier.predict(tmp_path))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_many_objects_are_predicted_in_order(
    classifier: Classifier, video: Path, frames: np.ndarray, tmp_path: Path, workers: int
):
    def videos():
        yield video
        yield video.read_bytes()
        yield frames.astype(np.float32)
        yield timesformer.Frames(frames, FPS, "camera 1")
        yield b"no video"
        yield [tmp_path / "missing.jpg"]
        yield torch.from_numpy(frames)

    found = list(classifier.predict_many(videos(), workers=workers, fps=FPS))
    assert [number for number, prediction in enumerate(found) if prediction.error] == [2, 4, 5]
    assert [found[number].video for number in (0, 3)] == [str(video), "camera 1"]
    assert "float32" in found[2].error
    assert "missing.jpg" in found[5].error
    expected = classifier.predict(video)
    for number in (0, 1, 3, 6):
        assert np.allclose(found[number].probabilities, expected.probabilities, atol=1e-6)


def test_videos_are_taken_from_an_iterator_as_they_are_needed(classifier: Classifier, frames: np.ndarray):
    taken = 0

    def videos():
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield frames

    predictions = classifier.predict_many(videos(), workers=0, fps=FPS)
    next(predictions)
    assert taken < 4
    predictions.close()


def test_only_the_dense_sampler_needs_the_frame_rate(classifier: Classifier, frames: np.ndarray):
    for sampler in ("uniform", "equidistant", "random", "segment"):
        prediction = classifier.predict(frames, sampler=sampler)
        assert equal(prediction, classifier.predict(frames, sampler=sampler, fps=10))
    with pytest.raises(VideoError, match="fps"):
        classifier.predict(frames)
    assert not equal(classifier.predict(frames, fps=25), classifier.predict(frames, fps=10))


T, H, W = 4, 6, 8
INVALID = {
    "channels first": (np.zeros((T, 3, H, W), np.uint8), r"transpose\(0, 2, 3, 1\)"),
    "tensor, channels first": (torch.zeros(T, 3, H, W, dtype=torch.uint8), r"permute\(0, 2, 3, 1\)"),
    "time second": (np.zeros((3, T, H, W), np.uint8), r"transpose\(1, 2, 3, 0\)"),
    "batch": (np.zeros((2, T, H, W, 3), np.uint8), "predict_many"),
    "one image": (np.zeros((H, W, 3), np.uint8), r"image\[None\]"),
    "gray": (np.zeros((T, H, W), np.uint8), "repeat"),
    "alpha": (np.zeros((T, H, W, 4), np.uint8), r"\[\.\.\., :3\]"),
    "no frames": (np.zeros((0, H, W, 3), np.uint8), "no frames"),
    "0 to 1": (np.ones((T, H, W, 3), np.float32), r"\* 255\)\.round\(\)\.astype"),
    "tensor from 0 to 1": (torch.ones(T, H, W, 3), r"\* 255\)\.round\(\)\.to\(torch.uint8\)"),
    "0 to 255": (np.full((T, H, W, 3), 255.0), r"frames\.round\(\)\.astype"),
    "int64": (np.full((T, H, W, 3), 255), r"frames\.astype"),
    "16 bits": (np.full((T, H, W, 3), 65535, np.uint16), "// 256"),
    "normalized": (np.full((T, H, W, 3), -1.5), "normalization"),
    "bool": (np.ones((T, H, W, 3), bool), r"\* 255\)\.astype"),
    "empty list": ([], "no images"),
    "one PIL image": (Image.new("RGB", (W, H)), "list"),
    "sizes": ([Image.new("RGB", (W, H)), Image.new("RGB", (W, H + 1))], f"{W}x{H + 1}"),
    "float images": ([np.zeros((H, W, 3))], "float64"),
    "other items": ([1, 2], "int"),
    "several contents": ([b"one", b"two"], "predict_many"),
    "several videos": (["one.mp4", "two.mp4"], "predict_many"),
    "None": (None, "NoneType"),
    "text file": (io.StringIO("text"), "'rb'"),
    "empty": (b"", "0 bytes"),
    "name as bytes": (__file__.encode(), "str"),
    "no video": (b"\x00" * 1000, "bytes"),
    "playlist": (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n", "playlist"),
    "shard": (tarfile.TarInfo("clip.mp4").tobuf(tarfile.USTAR_FORMAT) + bytes(1024), "tar file.*#bytes="),
    "address": ("rtsp://camera/1", "address"),
    "standard input": ("-", "stdin"),
    "text": ("a text " * 1000, r"\.\.\."),
}


@pytest.mark.parametrize("kind", INVALID)
def test_invalid_videos_are_errors_that_name_what_was_found(kind: str, classifier: Classifier):
    video, message = INVALID[kind]
    with pytest.raises(VideoError, match=message) as error:
        classifier.predict(video, fps=FPS)
    assert len(str(error.value)) < 500
    with pytest.raises(VideoError, match=message):
        classifier.clips(video, fps=FPS)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), "25"])
def test_invalid_frame_rates(fps: object, classifier: Classifier, frames: np.ndarray):
    with pytest.raises(VideoError, match="fps"):
        classifier.predict(frames, fps=fps)


@pytest.mark.parametrize("videos", ["clip.mp4", b"content", np.zeros((T, H, W, 3), np.uint8), io.BytesIO()])
def test_a_single_video_is_no_list_of_videos(videos: object, classifier: Classifier):
    with pytest.raises(VideoError, match="predict for one"):
        classifier.predict_many(videos)


def test_bytes_of_containers_that_name_other_files_are_refused(classifier: Classifier, video: Path):
    content = f"ffconcat version 1.0\nfile {video}\n".encode()
    with pytest.raises(VideoError):
        classifier.predict(content)


def test_json_of_a_prediction_has_the_entries_of_the_json_file(classifier: Classifier, video: Path):
    prediction = classifier.predict(video, top_k=2, features=True, keep_clips=True)
    content = json.loads(json.dumps(prediction.to_dict(), allow_nan=False))
    assert content["video"] == str(video)
    assert [(entry["class"], entry["probability"]) for entry in content["top"]] == [
        (name, round(probability, 6)) for name, probability in prediction.top
    ]
    assert np.allclose(content["probabilities"], prediction.probabilities, atol=1e-6)
    assert np.array_equal(np.float32(content["embedding"]), prediction.embedding)
    assert [tuple(clip["numbers"]) for clip in content["clips"]] == [clip.numbers for clip in prediction.clips]


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_notebook_shows_frames_and_bars(classifier: Classifier, frames: np.ndarray):
    name = "<script>alert(1)</script> & 'more'"
    prediction = classifier.predict(timesformer.Frames(frames, FPS, name), keep_clips=True)
    prediction = replace(prediction, top=[("<b>catch</b>", 0.75), ("walk", 0.25)])
    page = Page(prediction._repr_html_())
    assert all(text in page.text for text in (name, "<b>catch</b>", "75.0 %"))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert {tag for tag, _ in page.tags} == {"div", "b", "br", "small", "img", "table", "tr", "td"}
    pictures = []
    for image in images:
        kind, _, content = image["src"].partition(";base64,")
        assert kind in ("data:image/jpeg", "data:image/png")  # nothing from elsewhere
        pictures.append(Image.open(io.BytesIO(base64.b64decode(content))))
    shown = prediction.clips[4].frames
    assert [picture.size for picture in pictures] == [(16, 16)] * len(shown) + [(1, 1)] * 2
    for picture, frame in zip(pictures, shown, strict=False):
        gray = np.asarray(Image.fromarray(frame).convert("L"), np.float32)
        assert np.abs(np.asarray(picture.convert("L"), np.float32) - gray).mean() < 8
    assert [int(image["width"]) for image in images[-2:]] == [150, 50]
    assert [tag for tag, _ in Page(replace(prediction, clips=[])._repr_html_()).tags].count("img") == 2
    failed = Page(Prediction("a.mp4", error="a.mp4: <no> video")._repr_html_())
    assert failed.text == "a.mp4: <no> video"
