"""predict --stream: from the command to its lines and files."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import Outcome
from tests.loopback import Server
from tests.patience import PATIENCE
from tests.streaming.senders import HttpSender, gray_video
from timesformer.commands import predict as command
from timesformer.commands import predict_stream
from timesformer.commands.predict_timeline import OF_TIMELINES
from timesformer.inference.classifier import Classifier, load_model
from timesformer.streaming import answer_file, receiver
from timesformer.streaming.live import StreamAnswer

Predict = Callable[..., Outcome]

NOT_FOR_STREAMS = ("--timeline", "--page a.html", "--leave 0.2", "--min-length 1", "--gaps", "--fps 5")
NOT_FOR_STREAMS += ("--annotations a.csv", "--features a.npz", "--workers 1", "--workers 0")


@pytest.fixture
def predict(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Predict:
    """predict(arguments): what `timesformer predict --checkpoint ... arguments` does, in this process."""

    def run(*arguments: object) -> Outcome:
        try:
            code = command.main(["--checkpoint", str(tiny_checkpoint), "--device", "cpu", *map(str, arguments)])
        except SystemExit as error:  # argparse's
            code = error.code
        return Outcome(code, *capsys.readouterr())

    return run


def test_help_shows_the_options_of_streams_and_timelines_together():
    parser = command.make_parser()
    dests = {group.title: {action.dest for action in group._group_actions} for group in parser._action_groups}
    assert dests["long videos and streams"] == set(OF_TIMELINES) - set(predict_stream.NOT_FOR_STREAMS)
    assert all(source in " ".join(parser.format_help().split()) for source in ("a named pipe", "rtsp://", "standard"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two seconds of 10 frames of moving patterns, without loss."""
    return ffmpeg(tmp_path / "clip.mkv", "-f", "lavfi", "-i", "testsrc2=size=160x120:rate=10:duration=2")


def ffmpeg(output: Path, *arguments: object) -> Path:
    subprocess.run(["ffmpeg", "-v", "error", *map(str, arguments), "-c:v", "ffv1", str(output)], check=True)
    return output


def pipe(path: Path, data: bytes) -> Path:
    """A named pipe that somebody writes into."""
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=(data,), daemon=True).start()
    return path


def read_frames(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def events(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_the_predictions_of_the_windows(
    predict: Predict, clip: Path, tiny_checkpoint: Path, tmp_path: Path
):
    output, overlay = tmp_path / "new/answers.jsonl", tmp_path / "overlay.mp4"
    source = pipe(tmp_path / "pipe", clip.read_bytes())
    options = ["--every-window", "--window", 0.4, "--stride", 0.4, "--threshold", 0]
    outcome = predict("--stream", source, *options, "--output", output, "--overlay", overlay)
    assert outcome.code == 0
    start, *answers, end = events(output)
    assert (start["event"], start["source"], end["event"]) == ("start", str(source), "end")
    assert (end["received"], end["dropped"], end["answers"], end["problem"]) == (20, 0, 5, None)

    classifier = load_model(tiny_checkpoint, "cpu")
    assert [(answer["start"], answer["end"]) for answer in answers] == [
        (0.0, 0.4),
        (0.4, 0.8),
        (0.8, 1.2),
        (1.2, 1.6),
        (1.6, 2.0),
    ]
    for number, answer in enumerate(answers):
        cut = ffmpeg(tmp_path / f"{number}.mkv", "-ss", number * 0.4, "-t", 0.4, "-i", clip)
        expected = classifier.predict(cut)
        assert [top["class"] for top in answer["top"]] == [name for name, _ in expected.top]
        # Six decimals, and float32 sums in another order.
        np.testing.assert_allclose(
            [top["probability"] for top in answer["top"]], [probability for _, probability in expected.top], atol=2e-6
        )
        assert (answer["class"], answer["probability"]) == (answer["top"][0]["class"], answer["top"][0]["probability"])
    assert [answer["changed"] for answer in answers].count(True) == len(outcome.out.splitlines())

    drawn, plain = read_frames(overlay), read_frames(clip)
    assert [time for time, _ in drawn] == pytest.approx([time for time, _ in plain], abs=1e-3)
    for (_, labelled), (_, original) in zip(drawn, plain, strict=True):
        different = np.abs(labelled.astype(int) - original).mean(axis=2)
        assert different[40:70].mean() < 12  # between time and bars; lossy
        assert different[:20, 100:].mean() > 40  # the time


def test_a_broken_stream_ends_with_its_own_exit_code(predict: Predict, tmp_path: Path):
    output = tmp_path / "answers.jsonl"
    output.write_text('{"event": "answer", "ti')  # of a process that was killed
    with HttpSender(lambda send: send(gray_video(range(40)))) as sender:
        url = sender.url.replace("//", "//user:secret@") + "?token=secret"
        outcome = predict("--stream", url, "--retries", 0, "--output", output)
    assert outcome.code == 3
    assert sender.url in outcome.err
    assert "secret" not in outcome.out + outcome.err + output.read_text()
    start, *_, end = map(json.loads, output.read_text().splitlines()[1:])
    assert (start["event"], end["event"], sender.url in end["problem"]) == ("start", "end", True)


def test_breaks_are_in_the_file_and_quiet_prints_nothing(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output, video = tmp_path / "answers.jsonl", gray_video(range(40))
    output.write_text("of another stream\n")
    returns = threading.Event()  # set once the answer for the frames before the break is written

    def again(send: Callable[[bytes], None]) -> None:
        returns.wait(PATIENCE)
        send(video)

    class Watched(answer_file.AnswerFile):
        def add(self, answer: StreamAnswer) -> None:
            super().add(answer)
            if answer.end == pytest.approx(4.0):
                returns.set()

    monkeypatch.setattr(answer_file, "AnswerFile", Watched)
    monkeypatch.setattr(receiver, "FIRST_PAUSE", 0.0)
    options = ["--retries", 1, "--threshold", 0, "--window", 0.35, "--output", output, "--overwrite", "--quiet"]
    with HttpSender(lambda send: send(video), again) as sender:
        outcome = predict("--stream", sender.url, *options)
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err.splitlines() == [f"error: {events(output)[-1]['problem']}"]
    kinds = [event["event"] for event in events(output) if event["event"] != "answer"]
    assert kinds == ["start", "disconnected", "reconnected", "disconnected", "end"]
    assert all(sender.url in event["reason"] for event in events(output) if event["event"] in kinds[1:-1])


def test_ctrl_c_leaves_complete_files(predict: Predict, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    output, overlay = tmp_path / "answers.jsonl", tmp_path / "overlay.mp4"
    compute, computed = Classifier.compute, []

    def interrupted(classifier: Classifier, clips: object) -> object:
        computed.append(clips)
        if len(computed) == 3:
            signal.raise_signal(signal.SIGINT)
        return compute(classifier, clips)

    monkeypatch.setattr(Classifier, "compute", interrupted)
    source = pipe(tmp_path / "pipe", clip.read_bytes())
    outcome = predict("--stream", source, "--every-window", "--output", output, "--overlay", overlay)
    assert outcome.code == 128 + signal.SIGINT
    assert [event["event"] for event in events(output)] == ["start", "answer", "answer", "end"]
    assert "2 answers" in outcome.err
    assert len(read_frames(overlay)) > 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-"], "--stream"),
        (["rtsp://u:secret@h/x"], "rtsp://h/x"),
        (["/dev/video99"], "/dev/video99"),
        (["--stream", "/dev/video99"], "/dev/video99"),
        (["--stream", "rtsp://u:secret@127.0.0.1:1/x", "--overlay", "a.mp4"], "rtsp://127.0.0.1:1/x"),
        (["--stream", "missing"], "missing"),
        (["--stream", "-", "a.mp4"], "a.mp4"),
        (["--stream", "-", "--output", "a.json"], "a.json"),
        (["--stream", "-", "--overlay", "a.avi"], "a.avi"),
        (["--stream", "-", "--window", "0"], "--window"),
        (["clip.mp4", "--threshold", "0.9"], "--threshold"),
        (["--show", "a.mp4"], "--show"),
        (["--retries", "3", "a.mp4"], "--retries"),
        (["--stream", "-", "--retries", "-1"], "--retries"),
        (["--stream", "-", "--background", "no such class"], "no such class"),
        *((["--stream", "-", *option.split()], option.split()[0]) for option in NOT_FOR_STREAMS),
    ],
)
def test_user_errors(predict: Predict, tmp_path: Path, monkeypatch, arguments: list[str], named: str):
    monkeypatch.chdir(tmp_path)
    outcome = predict(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert named in outcome.err
    assert "add --timeline" not in outcome.err or "--stream" not in arguments
    assert "secret" not in outcome.err
    assert list(tmp_path.iterdir()) == []


FILES_ON_A_SERVER = {  # exit code, and what the message names
    "missing": (2, "404 Not Found"),
    "page": (2, "not a video"),
    "broken_header": (2, "connection broke"),
    "broken_frames": (3, "connection broke after"),
    "index_at_end": (3, "byte ranges"),
}


@pytest.mark.parametrize("name", FILES_ON_A_SERVER)
def test_a_file_on_a_server_that_cannot_be_read(predict: Predict, server: Server, name: str, tmp_path: Path):
    source, files = "testsrc2=size=160x120:rate=10:duration=20", [tmp_path / "end.mp4", tmp_path / "start.mp4"]
    for path, flags in zip(files, ([], ["-movflags", "+faststart"]), strict=True):
        command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-c:v", "mpeg4", "-g", "10", *flags, path]
        subprocess.run(command, check=True)
    index_at_end, index_at_start = (path.read_bytes() for path in files)
    frames = index_at_start.index(b"mdat")
    server.files["/page"] = b"<!DOCTYPE html><html><body>Please log in</body></html>"
    server.files |= {"/index_at_end": index_at_end, "/broken_header": index_at_start, "/broken_frames": index_at_start}
    ends = {"broken_header": frames // 2, "broken_frames": (frames + len(index_at_start)) // 2}
    server.breaks = [ends[name]] * 9 if name in ends else []
    server.resumable = False
    code, named = FILES_ON_A_SERVER[name]
    outcome = predict("--stream", server.url(f"/{name}"))
    assert outcome.code == code
    (error,) = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: {server.url(f'/{name}')}: ")
    assert named in error
    outcome = predict(server.url(f"/{name}"))
    assert (outcome.code, server.url(f"/{name}") in outcome.err, "--stream" in outcome.err) == (2, True, True)


def test_without_a_screen_there_is_no_window(predict: Predict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    outcome = predict("--stream", "-", "--show")
    assert (outcome.code, "--overlay" in outcome.err) == (2, True)


def test_an_existing_video_is_replaced_only_with_overwrite(predict: Predict, clip: Path, tmp_path: Path):
    overlay = tmp_path / "overlay.mp4"
    overlay.write_text("dear")
    outcome = predict("--stream", "-", "--overlay", overlay)
    assert (outcome.code, overlay.read_text(), str(overlay) in outcome.err) == (2, "dear", True)
    source = pipe(tmp_path / "pipe", clip.read_bytes())
    assert predict("--stream", source, "--overlay", overlay, "--overwrite").code == 0
    assert len(read_frames(overlay)) == 20
