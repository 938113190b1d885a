"""Streams: windows of a pipe, newest frames first, reconnecting, stalls."""

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from tests.loopback import Server
from tests.patience import PATIENCE, wait_until
from tests.streaming.senders import FPS, HttpSender, RtspSender, Sender, gray_video, jpeg_part
from timesformer.errors import UserError
from timesformer.inference.classifier import Classifier, load_model
from timesformer.localization.segments import find_segments
from timesformer.localization.windows import WindowScores, score_windows
from timesformer.streaming import receiver
from timesformer.streaming.changes import AnswerTracker
from timesformer.streaming.live import Stream, StreamAnswer
from timesformer.streaming.receiver import Receiver
from timesformer.streaming.sources import parse_source


@pytest.fixture
def classifier(tiny_checkpoint: Path) -> Classifier:
    """Two frames in a row make a clip; clips are computed one by one, so that results do not depend on batches."""
    return load_model(tiny_checkpoint, "cpu", ["TEST.BATCH_SIZE", "1"])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pauses between attempts to connect."""
    monkeypatch.setattr(receiver, "FIRST_PAUSE", 0.0)


def numbers(answer: StreamAnswer) -> tuple[int, int]:
    """First frame of a window, and the one after its last."""
    return round(answer.start * FPS), round(answer.end * FPS)


PATIENT = {"retries": 0, "timeout": PATIENCE}
"""Options of a stream that never stalls."""


def send_through(fifo: Path, data: bytes) -> threading.Thread:
    os.mkfifo(fifo)
    thread = threading.Thread(target=fifo.write_bytes, args=(data,), daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("stride", [0.1, 0.35, 0.5])
def test_windows_of_a_pipe_are_those_of_the_file(classifier: Classifier, tmp_path: Path, stride: float):
    clip = tmp_path / "clip.mkv"
    made = "testsrc=size=48x32:rate=10:duration=2.5"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", made, "-c:v", "libx264", clip], check=True)
    send_through(tmp_path / "pipe", clip.read_bytes())
    expected = list(score_windows(classifier, clip, window=0.4, stride=stride))
    with Stream(classifier, str(tmp_path / "pipe"), window=0.4, stride=stride, every_window=True) as stream:
        answers = list(stream)
    assert len(answers) == len(expected) > 3
    for answer, window in zip(answers, expected, strict=True):
        assert (answer.start, answer.end) == pytest.approx((window.start, window.end), abs=1e-9)
        np.testing.assert_array_equal(answer.probabilities, window.probabilities)
    assert (stream.problem, stream.statistics.received, stream.statistics.dropped) == ("", 25, 0)


def slow_down(classifier: Classifier, monkeypatch: pytest.MonkeyPatch, wait: Callable[[int], None]) -> None:
    """Call `wait` with the number of windows so far before the model computes."""
    compute, computed = classifier.compute, []

    def slow(clips: Tensor) -> tuple[Tensor, None]:
        wait(len(computed))
        computed.append(clips)
        return compute(clips)

    monkeypatch.setattr(classifier, "compute", slow)


def halves(video: bytes) -> tuple[bytes, bytes]:
    """An MPEG-TS in two pieces, cut between packets."""
    middle = len(video) // 188 // 2 * 188
    return video[:middle], video[middle:]


@pytest.mark.parametrize("sender_type", [HttpSender, RtspSender])
def test_the_newest_frames_win_while_the_model_is_slow(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, sender_type: type[Sender]
):
    first, second = halves(gray_video(range(100)))
    computing = threading.Event()

    def script(send: Callable[[bytes], None]) -> None:
        send(first)
        computing.wait(PATIENCE)
        send(second)
        sender.stall()

    with sender_type(script) as sender, Stream(classifier, sender.url, **PATIENT) as stream:

        def wait(windows: int) -> None:
            if not windows:
                computing.set()
                wait_until(lambda: stream.statistics.received >= 95)  # the last ones wait for those after them

        slow_down(classifier, monkeypatch, wait)
        early, late = next(stream), next(stream)
        received = stream.statistics.received
    assert numbers(early)[1] <= 50
    assert 95 <= numbers(late)[1] <= received  # frames go on coming while the model computes
    assert numbers(late)[1] - numbers(late)[0] == 2
    assert stream.statistics.dropped == numbers(late)[0] - numbers(early)[1] + numbers(early)[0]
    assert stream.statistics.answers == len(stream.statistics.latencies) == 2


def test_every_window_of_every_part_of_a_pipe(classifier: Classifier, tmp_path: Path):
    os.mkfifo(pipe := tmp_path / "pipe")
    video = gray_video(range(0, 200, 4))  # its clock starts again with each copy
    threading.Thread(target=pipe.write_bytes, args=(3 * video,), daemon=True).start()
    with Stream(classifier, str(pipe), window=0.5, stride=0.5, every_window=True) as stream:
        answers = list(stream)
    assert stream.statistics.received == 150
    assert [numbers(answer) for answer in answers] == [(start, start + 5) for start in range(0, 150, 5)]


def test_a_paced_receiver_continues_when_more_is_to_be_kept(tmp_path: Path):
    os.mkfifo(pipe := tmp_path / "pipe")
    threading.Thread(target=pipe.write_bytes, args=(gray_video(range(100)),), daemon=True).start()
    keep = [1.0]
    source = parse_source(str(pipe))
    frames = Receiver(source, prepare=lambda image: [image], keep=lambda fps: keep[0], is_paced=True)
    kept = frames.wait(lambda kept: bool(kept) and kept[-1].seconds > 1.0, PATIENCE)
    assert len(kept) < 20  # it waits now
    keep[0] = 1000.0
    frames.release(0.0)
    assert len(frames.wait(lambda kept: len(kept) == 100, PATIENCE)) == 100
    frames.close()


def test_only_the_newest_frames_are_in_memory():
    with HttpSender(lambda send: send(gray_video(range(100)))) as sender:
        frames = Receiver(parse_source(sender.url), prepare=lambda image: [image], keep=lambda fps: 1.0, **PATIENT)
        frames.join()
    kept = frames.wait(bool)
    assert frames.received == 100
    assert [frame.number for frame in kept] == list(range(88, 100))
    assert [round(frame.seconds * FPS) for frame in kept] == list(range(88, 100))
    np.testing.assert_allclose([frame.pixels[0].mean() for frame in kept], range(88, 100), atol=2)  # lossy


@pytest.mark.slow
@pytest.mark.parametrize("sender_type", [HttpSender, RtspSender])
def test_a_stream_that_breaks_and_stalls_is_connected_again(
    classifier: Classifier, impatient: None, caplog: pytest.LogCaptureFixture, sender_type: type[Sender]
):
    video = gray_video(range(60))

    def breaks(send: Callable[[bytes], None]) -> None:
        send(video)

    def stalls(send: Callable[[bytes], None]) -> None:
        send(video)
        sender.stall()

    options = {"window": 0.2, "stride": 0.2, "retries": 2, "timeout": 5.0}
    with sender_type(breaks, stalls, breaks) as sender, Stream(classifier, sender.url, **options) as stream:
        answers = list(stream)
    assert stream.statistics.connections == 3
    assert 60 < stream.statistics.received <= 180
    assert sender.url in stream.problem
    assert "5 seconds" in caplog.text
    ends = [answer.end for answer in answers]
    assert ends == sorted(set(ends))
    assert all(answer.end - answer.start <= 0.2 + 1e-9 for answer in answers)


def test_a_motion_jpeg_stream_is_timed_by_its_arrival(classifier: Classifier):
    images = [gray_video([level], "mjpeg", "mjpeg") for level in range(0, 200, 10)]
    clock = iter(range(10**6))

    class MotionJpeg(HttpSender):
        content_type = "multipart/x-mixed-replace; boundary=frame"

    with MotionJpeg(lambda send: [send(jpeg_part(image)) for image in images]) as sender:
        frames = Receiver(
            parse_source(sender.url),
            prepare=lambda image: [image],
            keep=lambda fps: 1000.0,
            **PATIENT,
            clock=lambda: float(next(clock)),
        )
        frames.join()
    kept = frames.wait(bool)
    assert [frame.seconds for frame in kept] == [float(number) for number in range(20)]
    assert frames.fps == pytest.approx(1.0)


def test_the_time_between_two_connections_does_not_change_the_frame_rate(impatient: None):
    images = [gray_video([level], "mjpeg", "mjpeg") for level in range(0, 200, 10)]
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    class MotionJpeg(HttpSender):
        content_type = "multipart/x-mixed-replace; boundary=frame"

    def pictures(send: Callable[[bytes], None]) -> None:
        now[0] += 1000.0
        for image in images:
            send(jpeg_part(image))

    with MotionJpeg(pictures, pictures) as sender:
        source, options = parse_source(sender.url), {"retries": 1, "timeout": PATIENCE, "clock": clock}
        frames = Receiver(source, prepare=lambda image: [image], keep=lambda fps: 1e6, **options)
        frames.join()
    assert (frames.connections, frames.received) == (2, 40)
    assert frames.fps == pytest.approx(1.0)


def test_a_video_file_on_a_server_is_predicted_completely(classifier: Classifier, server: Server, tmp_path: Path):
    server.files["/clip.mp4"] = gray_video(range(0, 200, 4), "mp4")
    with Stream(classifier, server.url("/clip.mp4"), window=0.5, stride=0.5, **PATIENT) as stream:
        answers = list(stream)
    assert [numbers(answer) for answer in answers] == [(start, start + 5) for start in range(0, 50, 5)]
    assert (stream.problem, stream.statistics.dropped) == ("", 0)


def test_the_answer_changes_as_segments_do():
    random = np.random.default_rng(0)
    windows = [WindowScores(i, i + 1.0, random.dirichlet((0.3, 0.3, 0.3)).astype(np.float32)) for i in range(200)]
    names = ("a", "b", "c")
    tracker = AnswerTracker(names, 0.7, background=["c"])
    answers = [tracker.update(window.end, window.probabilities)[0] for window in windows]
    segments = find_segments(windows, names, threshold=0.7, background=["c"], gaps=True)
    assert {"a", "b", ""} == set(answers)
    for segment in segments:
        assert set(answers[round(segment.start) : round(segment.end)]) == {segment.class_name}


def test_smoothing_averages_the_windows_before():
    tracker = AnswerTracker(("a", "b"), threshold=0.6, smooth=1.0)
    scores = [(1.0, 0.9), (1.5, 0.5), (2.0, 0.3), (2.5, 0.3)]
    got = [tracker.update(end, np.array([a, 1 - a])) for end, a in scores]
    assert [name for name, _ in got] == ["a", "a", "a", "b"]
    assert [probability for _, probability in got] == pytest.approx([0.9, 0.7, 1.7 / 3, 1 - 1.1 / 3])


@pytest.mark.parametrize(
    "option",
    [
        {"window": 0.0},
        {"window": "1"},
        {"stride": float("inf")},
        {"threshold": 1.5},
        {"threshold": None},
        {"smooth": float("nan")},
        {"top_k": 0},
        {"top_k": 2.5},
        {"retries": -1},
        {"timeout": -1.0},
    ],
)
def test_options_out_of_range(classifier: Classifier, option: dict[str, object]):
    with pytest.raises(UserError, match=next(iter(option))):
        Stream(classifier, "-", **option)
