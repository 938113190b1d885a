"""`predict --timeline`, from the command to its files."""

import csv
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import av
import pytest
import torch

from tests.datasets.made_videos import encode, ffmpeg, ffmpeg_frames, moving_scene, packets_of
from tests.processes import Outcome
from timesformer.commands.predict import main, make_parser
from timesformer.datasets.decoding import packet_source
from timesformer.datasets.workers.pool import SERVER
from timesformer.errors import UserError
from timesformer.inference.classifier import load_model
from timesformer.localization.many_videos import find_in_videos
from timesformer.localization.segments import find_segments
from timesformer.localization.timeline import Timeline
from timesformer.localization.unfinished import UnfinishedTimelines
from timesformer.localization.window_parts import Part
from timesformer.localization.windows import WindowScores

Predict = Callable[..., Outcome]


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Predict:
    """predict(arguments): what `timesformer predict --timeline arguments` does."""

    def run(*arguments: object) -> Outcome:
        here = ["--workers", "0"] if "--checkpoint" in arguments and "--workers" not in arguments else []
        monkeypatch.setattr("sys.argv", ["predict.py", "--timeline", *here, *map(str, arguments)])
        capsys.readouterr()
        try:
            code = main()
        except SystemExit as exit:
            code = exit.code
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("long") / "long.mp4", moving_scene(60, 48, 32))


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_segments_and_windows_of_videos(predict: Predict, tiny_checkpoint: Path, video: Path, tmp_path: Path):
    output, text = tmp_path / "t.csv", tmp_path / "text.mp4"
    text.write_text("no video")
    arguments = ["--checkpoint", tiny_checkpoint, video, text, "--window", 0.8, "--threshold", 0.3, "--output", output]
    outcome = predict(*arguments)
    assert outcome.code == 3
    assert str(text) in outcome.err
    *segments, unreadable = rows(output)
    assert (unreadable["video"], unreadable["class"]) == (str(text), "")
    assert unreadable["error"]
    assert str(text) not in unreadable["error"]  # it is in its own column
    windows = [
        WindowScores(float(row["start"]), float(row["end"]), [float(row[name]) for name in ("catch", "walk", "wave")])
        for row in rows(tmp_path / "t_windows.csv")
    ]
    assert [border for window in windows for border in (window.start, window.end)] == pytest.approx(
        [border for n in range(5) for border in (0.4 * n, 0.4 * n + 0.8)]
    )
    expected = find_segments(windows, ["catch", "walk", "wave"], threshold=0.3)
    assert [(row["class"], float(row["start"]), float(row["end"])) for row in segments] == [
        (segment.class_name, pytest.approx(segment.start), pytest.approx(segment.end)) for segment in expected
    ]
    assert predict(*arguments).code == 2
    assert predict(*arguments, "--overwrite").code == 3
    assert sorted(os.listdir(tmp_path)) == ["t.csv", "t_windows.csv", "text.mp4"]


def test_webvtt_is_read_by_ffmpeg(predict: Predict, tmp_path: Path):
    windows, output = tmp_path / "w.csv", tmp_path / "t.vtt"
    windows.write_text("video,start,end,a <b> & c,other\nx.mp4,0.5,1.75,0.9,0.1\nx.mp4,3599.5,3725.0,0.2,0.8\n")
    assert predict(windows, "--output", output).code == 0
    ffmpeg("-i", output, "-f", "srt", tmp_path / "t.srt")
    blocks = [block.splitlines() for block in (tmp_path / "t.srt").read_text().strip().split("\n\n")]
    assert blocks == [
        ["1", "00:00:00,500 --> 00:00:01,750", "a <b> & c 90 %"],
        ["2", "00:59:59,500 --> 01:02:05,000", "other 80 %"],
    ]


def test_json_holds_segments_and_settings(predict: Predict, tiny_checkpoint: Path, video: Path, tmp_path: Path):
    output = tmp_path / "t.json"
    assert predict("--checkpoint", tiny_checkpoint, video, "--window", 0.8, "--gaps", "--output", output).code == 0
    content = json.loads(output.read_text())
    assert content["class_names"] == ["catch", "walk", "wave"]
    (entry,) = content["videos"]
    assert (entry["video"], entry["duration"], entry["error"]) == (str(video), 2.4, "")
    assert (content["window"], content["stride"], "fps" in content) == (0.8, 0.4, False)
    settings = {"threshold": 0.5, "leave": 0.4, "smooth": 0.0, "min_length": 0.0, "background": [], "gaps": True}
    assert content | settings | {"sampler": "uniform", "views": 1, "crops": 1} == content
    parser = make_parser()
    assert {*settings, "window", "stride", "views", "crops", "sampler"} <= vars(parser.parse_args([])).keys()
    assert predict(tmp_path / "t_windows.csv", "--threshold", 0.3, "--output", tmp_path / "again.json").code == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again | settings | {"threshold": 0.3, "leave": 0.24, "gaps": False} == again
    assert (again["windows"], "checkpoint" in again) == (str(tmp_path / "t_windows.csv"), False)
    assert (entry["segments"][0]["start"], entry["segments"][-1]["end"]) == (0.0, 2.4)


def test_classes_may_have_the_names_of_columns(predict: Predict, tiny_checkpoint: Path, video: Path, tmp_path: Path):
    checkpoint, names = tmp_path / "named.pyth", ["class", "video", "end"]
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["progress"]["class_names"] = names
    torch.save(content, checkpoint)
    assert predict("--checkpoint", checkpoint, video, "--threshold", 0, "--output", tmp_path / "t.csv").code == 0
    windows = tmp_path / "t_windows.csv"
    header = next(csv.reader(windows.read_text().splitlines()))
    assert len(set(header)) == len(header) == 6
    assert predict(windows, "--threshold", 0, "--output", tmp_path / "again.csv").code == 0
    found, again = ([[*row.values()][:4] for row in rows(tmp_path / f"{name}.csv")] for name in ("t", "again"))
    assert found == again
    assert {row[3] for row in found} <= set(names)


def test_saved_scores_are_measured_with_annotations(predict: Predict, tmp_path: Path):
    windows, annotations = tmp_path / "w.csv", tmp_path / "truth.csv"
    windows.write_text(
        "video,start,end,run,jump\nd/x.mp4,0,2,0.9,0.1\nd/x.mp4,2,4,0.2,0.8\nd/x.mp4,4,6,0.55,0.45\ny.mp4,0,9,0.9,0.1\n"
    )
    annotations.write_text("class,video,start,end\nrun,x.mp4,0,2\njump,x.mp4,2,5\n,z.mp4,,\n")
    outcome = predict(windows, "--annotations", annotations, "--output", tmp_path / "t.csv")
    assert outcome.code == 0
    metrics = json.loads((tmp_path / "t_metrics.json").read_text())
    # IoU 1 for run, of three detections the first; 2/3 for jump. 0 to 4 of 6 seconds are correct, 4 of 5 annotated.
    assert metrics["mean_average_precision"] == [100.0] * 5
    assert metrics["frame_accuracy"] == pytest.approx(100 * 4 / 6)
    assert metrics["action_accuracy"] == pytest.approx(100 * 4 / 5)
    assert "z.mp4" in outcome.out
    again = predict(tmp_path / "t.csv", "--annotations", annotations)  # the segments alone
    assert again.out.splitlines()[-4:-1] == outcome.out.splitlines()[3:6]


def test_predicted_classes_without_annotations_are_named(predict: Predict, tmp_path: Path):
    windows, annotations = tmp_path / "w.csv", tmp_path / "truth.csv"
    windows.write_text("video,start,end,run,swim\nx.mp4,0,2,0.9,0.1\nx.mp4,2,4,0.2,0.8\n")
    annotations.write_text("video,start,end,class\nx.mp4,0,2,run\n")
    outcome = predict(windows, "--annotations", annotations, "--quiet")
    assert outcome.out.splitlines()[-1].count("swim") == 1


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("video,start,end\nx.mp4,0,2\n", "class"),
        ("video,start,end,class\nx.mp4,0,two,run\n", "line 2"),
        ("video,start,end,class\nx.mp4,3,2,run\n", "line 2"),
        ("video,start,end,class\nx.mp4,0,2,swim\n", "swim"),
        ("video,start,end,class\nother.mp4,0,2,run\n", "other.mp4"),
        ("video,start,end,class\nx.mp4,0,2\n", "line 2"),
    ],
)
def test_incorrect_annotations_are_errors(predict: Predict, content: str, named: str, tmp_path: Path):
    windows, annotations = tmp_path / "w.csv", tmp_path / "truth.csv"
    windows.write_text("video,start,end,run,jump\nx.mp4,0,2,0.9,0.1\n")
    annotations.write_text(content)
    outcome = predict(windows, "--annotations", annotations)
    assert outcome.code == 2
    assert str(annotations) in outcome.err
    assert named in outcome.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["x.mp4"],
        ["w.csv", "--features", "f.npz"],
        ["w.csv", "--top-k", "3"],
        ["w.csv", "--workers", "2"],
        ["w.csv", "--output", "t.txt"],
        ["w.csv", "--window", "0"],
        ["w.csv", "--background", "swim"],
        ["w.csv", "--smooth", "nan"],
        ["w.csv", "v.csv", "--output", "t.vtt"],
        ["two.csv", "--output", "t.vtt"],
        ["two.csv", "--overlay", "copies"],
        ["two.csv", "--overlay", "copy.mp4"],
        ["segments.csv", "--page", "p.html"],
        ["two.csv", "--annotations", "truth.csv"],
    ],
)
def test_incorrect_arguments_are_errors(
    predict: Predict, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("w.csv").write_text("video,start,end,run\nx.mp4,0,2,0.9\n")
    Path("two.csv").write_text("video,start,end,run\na/x.mp4,0,2,0.9\nb/x.mp4,0,2,0.9\n")  # one name, two videos
    Path("segments.csv").write_text("video,start,end,class,probability\nx.mp4,0,2,run,0.9\n")
    Path("truth.csv").write_text("video,start,end,class\nx.mp4,0,2,run\n")
    before = sorted(os.listdir())
    assert predict(*arguments).code == 2
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("options", "scores_too"),
    [
        *((option, True) for option in ("--checkpoint x.pyth", "--views 3", "--crops 3", "--device cuda:9")),
        *((option, True) for option in ("--batch-size 3", "--cfg none.yaml", "TEST.BATCH_SIZE 3", "--workers 0")),
        *((option, True) for option in ("--window 1", "--stride 1", "--sampler dense", "--fps 9")),
        *((option, False) for option in ("--threshold 0.9", "--threshold 0", "--leave 0.1", "--smooth 2")),
        *((option, False) for option in ("--min-length 3", "--background run", "--gaps")),
    ],
)
def test_options_without_effect_on_saved_scores_or_segments_are_errors(
    predict: Predict, options: str, scores_too: bool, tmp_path: Path
):
    (scores := tmp_path / "t_windows.csv").write_text("video,start,end,run\nx.mp4,0,2,0.9\n")
    (segments := tmp_path / "t.csv").write_text("video,start,end,class,probability\nx.mp4,0,2,run,0.9\n")
    outcome = predict(segments, *options.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert options.split()[0] in outcome.err
    assert "leave" in outcome.err
    assert predict(scores, *options.split()).code == (2 if scores_too else 0)


def test_saved_segments_are_written_without_settings(predict: Predict, tmp_path: Path):
    (segments := tmp_path / "t.csv").write_text("video,start,end,class,probability\nx.mp4,0,2,run,0.9\n")
    assert predict(segments, "--output", tmp_path / "again.json").code == 0
    content = json.loads((tmp_path / "again.json").read_text())
    assert (content["segments"], sorted(content)) == (str(segments), ["segments", "videos"])
    assert sorted(os.listdir(tmp_path)) == ["again.json", "t.csv"]


def test_copies_of_saved_windows_replace_nothing(predict: Predict, video: Path, tmp_path: Path):
    windows, copy = tmp_path / "w.csv", tmp_path / f"{video.stem}.mp4"
    windows.write_text(f"video,start,end,walk\n{video},0,2.4,0.9\n")
    copy.write_text("of somebody")
    assert predict(windows, "--overlay", tmp_path).code == 2
    assert copy.read_text() == "of somebody"


def test_damage_ends_the_copy_and_not_the_command(predict: Predict, tiny_checkpoint: Path, video: Path, tmp_path: Path):
    damaged, missing, page = tmp_path / "damaged.mp4", tmp_path / "missing.mp4", tmp_path / "pages/timeline.html"
    content = bytearray(video.read_bytes())
    content[-900:-500] = bytes(400)
    damaged.write_bytes(content)
    arguments = ["--checkpoint", tiny_checkpoint, damaged, missing, "--window", 0.4, "--output", tmp_path / "t.csv"]
    outcome = predict(*arguments, "--overlay", tmp_path / "copies", "--page", page)
    assert outcome.code == 3
    assert os.listdir(tmp_path / "copies") == ["damaged.mp4"]
    assert 10 < len(ffmpeg_frames(tmp_path / "copies/damaged.mp4")) < 60
    assert "damaged.mp4" in page.read_text()
    assert f"{missing}: no such file" in page.read_text()


@pytest.mark.parametrize("kept", [True, False], ids=["small", "large"])
@pytest.mark.parametrize("name", ["fast.mp4", "x.mkv"])
def test_a_file_that_is_cut_short_is_read_up_to_there(
    predict: Predict, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kept: bool
):
    whole, half = tmp_path / f"whole_{name}", tmp_path / name
    picture, sound = "testsrc2=size=64x48:rate=10:duration=8", "sine=duration=12"
    ffmpeg(
        *("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound),
        "-g",
        5,
        "-c:a",
        "aac",
        "-movflags",
        "+faststart",
        whole,
    )
    content = whole.read_bytes()
    half.write_bytes(content[: len(content) // 2])
    num_frames = len(ffmpeg_frames(half))
    assert 20 < num_frames < 60
    if not kept:
        monkeypatch.setattr(packet_source, "LARGEST_KEPT", 0)
    arguments = ["--checkpoint", tiny_checkpoint, "--window", 0.5, "--gaps", "--quiet", "--output", tmp_path / "t.csv"]
    outcome = predict(*arguments, half, "--overlay", tmp_path / "copy.mp4")
    *segments, error = rows(tmp_path / "t.csv")
    assert (outcome.code, error["class"]) == (3, "")
    assert error["error"].startswith("cut short")
    end = float(segments[-1]["end"])
    assert end == pytest.approx(num_frames / 10, abs=0.25)  # the last frame may be cut off
    with av.open(str(tmp_path / "copy.mp4")) as copy:
        picture, sound = (float(stream.duration * stream.time_base) for stream in copy.streams)
    assert picture == pytest.approx(end, abs=0.1)
    assert end - 0.5 < sound < end + 0.1
    assert predict(*arguments, whole, "--overwrite").code == 0  # sound that is longer than the video is no loss


def test_the_sound_of_a_copy_ends_where_the_video_is_damaged(predict: Predict, tmp_path: Path):
    damaged, windows, copy = tmp_path / "damaged.mp4", tmp_path / "w.csv", tmp_path / "copy.mp4"
    encoded = encode(tmp_path / "video.mp4", moving_scene(60, 48, 32))
    ffmpeg("-i", encoded, "-f", "lavfi", "-i", "sine=duration=2.4", "-c:v", "copy", damaged)
    content = bytearray(damaged.read_bytes())
    packet = packets_of(damaged)[30]
    content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    damaged.write_bytes(content)
    windows.write_text(f"video,start,end,walk\n{damaged},0,2.4,0.9\n")
    predict(windows, "--overlay", copy)
    with av.open(str(copy)) as container:
        video, sound = (float(stream.duration * stream.time_base) for stream in container.streams)
    assert 1 < video < 1.4
    assert sound == pytest.approx(video, abs=0.1)


def test_copies_of_videos_that_are_gone_are_errors(predict: Predict, video: Path, tmp_path: Path):
    windows, gone = tmp_path / "w.csv", tmp_path / "gone.mp4"
    windows.write_text(f"video,start,end,walk\n{gone},0,2.4,0.9\n{video},0,2.4,0.9\n")
    outcome = predict(windows, "--overlay", tmp_path / "copies")
    assert outcome.code == 3
    assert str(gone) in outcome.err
    assert os.listdir(tmp_path / "copies") == [f"{video.stem}.mp4"]


def test_an_interrupted_command_resumes(
    predict: Predict, tiny_checkpoint: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, second, output = tmp_path / "first.mp4", tmp_path / "second.mp4", tmp_path / "t.csv"
    first.write_bytes(video.read_bytes())
    encode(second, moving_scene(30, 48, 32))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    arguments = ["--checkpoint", tiny_checkpoint, broken, first, second, "--window", 0.4, "--threshold", 0.3]
    assert predict(*arguments, "--output", tmp_path / "whole.csv").code == 3
    add = UnfinishedTimelines.add

    def interrupt(self: UnfinishedTimelines, number: int, timeline: Timeline) -> None:
        add(self, number, timeline)
        if number == 1:
            raise KeyboardInterrupt(2)

    with monkeypatch.context() as patch:
        patch.setattr(UnfinishedTimelines, "add", interrupt)
        outcome = predict(*arguments, "--output", output)
    assert (outcome.code, "resumes" in outcome.err, output.exists()) == (130, True, False)
    assert predict(*arguments, "--output", output, "--stride", 0.3).code == 2  # other windows
    first.write_bytes(b"")  # it is not read again
    assert predict(*arguments, "--output", output).code == 3
    for name in ("{}.csv", "{}_windows.csv"):
        assert (tmp_path / name.format("t")).read_bytes() == (tmp_path / name.format("whole")).read_bytes()
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the process that reads in /proc")
def test_videos_that_hang_or_crash_the_decoder_do_not_end_the_command(
    predict: Predict, tiny_checkpoint: Path, video: Path, tmp_path: Path
):
    hanging, output = tmp_path / "hanging", tmp_path / "t.csv"
    hanging.mkdir()
    os.mkfifo(hanging / "0.jpg")  # opening it waits for a writer
    arguments = ["--checkpoint", tiny_checkpoint, hanging, video, "--window", 0.4, "--gaps", "--workers", 1]
    assert predict(*arguments, "--output", output, "DATA.DECODE_TIMEOUT", 2).code == 3
    unreadable, *segments = rows(output)
    assert "DATA.DECODE_TIMEOUT" in unreadable["error"]
    assert {row["video"] for row in segments} == {str(video)}

    def kill(part: Part) -> None:
        server = SERVER._server.pid
        for worker in Path(f"/proc/{server}/task/{server}/children").read_text().split():
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(int(worker), signal.SIGKILL)

    classifier = load_model(tiny_checkpoint, "cpu")
    ((_, timeline),) = find_in_videos(classifier, [str(video)], window=0.2, stride=0.02, workers=1, on_part=kill)
    assert timeline.error.startswith(str(video))
    assert 0 < timeline.duration < 2.4


@pytest.mark.parametrize("option", [{"workers": -1}, {"workers": 1.5}, {"stride": "1"}])
def test_numbers_out_of_range_are_errors(option: dict[str, object], tiny_checkpoint: Path, video: Path):
    with pytest.raises(UserError, match=next(iter(option))):
        list(find_in_videos(load_model(tiny_checkpoint, "cpu"), [str(video)], **option))


def test_video_with_labels_and_page(predict: Predict, video: Path, tmp_path: Path):
    windows, copy, page = tmp_path / "w.csv", tmp_path / "labelled.mp4", tmp_path / "timeline.html"
    windows.write_text(f"video,start,end,walk,wave\n{video},0,1.2,0.9,0.1\n{video},1.2,2.4,0.2,0.8\n")
    arguments = [windows, "--overlay", copy, "--page", page, "--quiet"]
    assert predict(*arguments).code == 0
    frames = len(ffmpeg_frames(copy))
    assert frames == len(ffmpeg_frames(video)) == 60
    segments = re.findall(r'data-time="([\d.]+)" data-until="([\d.]+)" data-name="(\w+)"', page.read_text())
    assert segments == [("0.0", "1.2", "walk"), ("1.2", "2.4", "wave")]
    content = copy.read_bytes()
    assert predict(*arguments).code == 2
    assert copy.read_bytes() == content
    assert predict(*arguments, "--overwrite").code == 0
    assert predict(windows, "--overlay", tmp_path / "copies", "--page", tmp_path / "page.txt").code == 2
    assert not (tmp_path / "copies").exists()


def test_mistakes_are_found_before_videos_are_read(
    predict: Predict, tiny_checkpoint: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, truth = tmp_path / "source.mp4", tmp_path / "truth.csv"
    source.write_bytes(content := video.read_bytes())
    names = [f"unknown_{number}" for number in range(8)]
    truth.write_text("video,start,end,class\n" + "".join(f"source.mp4,0,1,{name}\n" for name in names))
    monkeypatch.setattr("timesformer.localization.many_videos.find_in_videos", None)
    for arguments, named in (
        (["--overlay", source, "--overwrite"], [str(source)]),
        (["--annotations", truth], names),
        (["--leave", 0.9], ["--leave", "--threshold"]),
    ):
        outcome = predict("--checkpoint", tiny_checkpoint, source, *arguments)
        assert outcome.code == 2
        assert all(name in outcome.err for name in named)
    assert source.read_bytes() == content


def test_saved_windows_are_used_in_another_folder_and_format(
    predict: Predict, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "video.mp4").write_bytes(video.read_bytes())
    windows = tmp_path / "t_windows.csv"
    windows.write_text("video,start,end,walk,wave\nvideo.mp4,0,1.2,0.9,0.1\nvideo.mp4,1.2,2.4,0.2,0.8\n")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    assert predict(windows, "--overlay", "copy.mp4", "--page", "page.html", "--quiet").code == 0
    assert len(ffmpeg_frames(Path("copy.mp4"))) == 60
    content = windows.read_bytes()
    outcome = predict("--checkpoint", "x.pyth", video, "--output", tmp_path / "t.json")
    assert outcome.code == 2
    assert f"predict --timeline {windows} --output {tmp_path / 't.json'}" in outcome.err
    assert predict(windows, "--output", tmp_path / "t.json").code == 0
    assert [entry["video"] for entry in json.loads((tmp_path / "t.json").read_text())["videos"]] == ["video.mp4"]
    assert windows.read_bytes() == content


def test_saved_segments_have_the_metrics_of_their_scores(predict: Predict, tmp_path: Path):
    windows, truth = tmp_path / "w.csv", tmp_path / "truth.csv"
    windows.write_text("video,start,end,run,jump\nx.mp4,0,0.399600,0.9,0.1\n")  # 0.400 in the file of segments
    truth.write_text("video,start,end,class\nx.mp4,0,1,run\n")
    outcome = predict(windows, "--annotations", truth, "--output", tmp_path / "t.csv")
    metrics = json.loads((tmp_path / "t_metrics.json").read_text())
    assert metrics["mean_average_precision"] == [100.0, 100.0, 100.0, 100.0, 0.0]
    again = predict(tmp_path / "t.csv", "--annotations", truth)
    assert again.out.splitlines()[-5:] == outcome.out.splitlines()[:5]
