"""tools/predict.py as a user drives it: lines, files, what is told, and going on after being killed."""

import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, Outcome
from tests.patience import PATIENCE

Predict = Callable[..., Outcome]


@pytest.fixture
def predict(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Predict:
    """predict(arguments): what `python tools/predict.py --checkpoint ... arguments` does, without any process."""
    spec = importlib.util.spec_from_file_location("tools_predict", ROOT / "tools" / "predict.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def run(*arguments: object) -> Outcome:
        given = ["--checkpoint", tiny_checkpoint, "--device", "cpu", "--workers", 0, *arguments]
        monkeypatch.setattr("sys.argv", ["predict.py", *map(str, given)])
        try:
            code = tool.main()
        except SystemExit as error:  # argparse's
            code = error.code
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def videos(tiny_data: Path, tmp_path: Path) -> Path:
    """A folder of two clips, one of them deeper, beside what is none."""
    folder = tmp_path / "videos"
    shutil.copytree(tiny_data / "test/catch/test0", folder / "a")
    shutil.copytree(tiny_data / "test/walk/test1", folder / "deep/er/b")
    (folder / "notes.txt").write_text("no video")
    return folder


def test_a_line_for_each_video_and_the_bad_ones_at_the_end(predict, videos):
    (videos / "deep" / "broken.mp4").write_text("text")
    outcome = predict(videos, "--top-k", 2)
    assert outcome.code == 3
    first, second = outcome.out.splitlines()
    assert first.startswith(f"{videos}/a: ")
    assert first.count("%") == 2
    assert second.startswith(f"{videos}/deep/er/b: ")
    assert "Classifier of 3 classes" in outcome.err
    assert "3/3" in outcome.err
    assert f"1 of 3 videos could not be read:\n  {videos}/deep/broken.mp4: not a video" in outcome.err
    assert predict(videos, "--top-k", 2, "--quiet").err.startswith("1 of 3 videos")
    alone = predict(videos / "a", "--top-k", 2, "--quiet")
    assert alone == (0, f"{first}\n", "")


@pytest.mark.parametrize("kind", ["run", "hugging_face"])
def test_folders_of_a_run_and_of_hugging_face_are_checkpoints(
    predict, videos, tmp_path, tiny_checkpoint, converter, kind
):
    folder, path = tmp_path / "folder", tmp_path / "folder"
    if kind == "run":
        (folder / "checkpoints").mkdir(parents=True)
        path = Path(shutil.copy(tiny_checkpoint, folder / "checkpoints"))
    else:
        converter.convert(str(tiny_checkpoint), folder, "hf", None, None)
    expected = predict(videos, "--top-k", 3)
    assert expected.code == 0
    found = predict(videos, "--top-k", 3, "--checkpoint", folder)
    assert (found.code, found.out) == (0, expected.out)
    assert predict(videos, "--checkpoint", folder, "--output", tmp_path / "p.json").code == 0
    assert json.loads((tmp_path / "p.json").read_text())["checkpoint"] == str(path)


def test_system_folders_hold_no_videos_and_other_files_are_named_once(predict, videos):
    before = predict(videos, "--quiet").out
    for name in ("__MACOSX/a/._0.jpg", "a/@eaDir/0.jpg/SYNO", "deep/lost+found/x.mp4", "Thumbs.db"):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).write_text("x")
    outcome = predict(videos)
    assert (outcome.code, outcome.out) == (0, before)
    assert outcome.err.count("notes.txt") == 1
    assert "Thumbs.db" not in outcome.err


def test_a_missing_file_is_named_whatever_its_letters(predict, videos):
    for name in ("CLIP.MP4", "DATA.AVI", "IMG_0001.MOV", "A.B.MKV", "CLIP.DAT", "RUNS"):
        outcome = predict(videos / "a", name, "--quiet")
        assert outcome.code == 3
        assert f"{name}: no such file" in outcome.err
        with_pairs = predict(name, videos / "a", "DATA.TEST_CROP_SIZE", 32, "--quiet")
        assert (with_pairs.code, with_pairs.err) == (3, outcome.err)


def test_names_that_begin_with_a_dash_come_behind_two(predict, videos, monkeypatch):
    monkeypatch.chdir(videos)
    (videos / "a").rename("-a")
    plain = predict("./-a", "DATA.TEST_CROP_SIZE", 32, "--quiet").out
    assert predict("--quiet", "--", "-a", "DATA.TEST_CROP_SIZE", 32).out == plain.replace("./-a", "-a")
    assert predict("--quiet", "--", "-b").err.endswith("  -b: no such file or folder (No such file or directory)\n")


def test_paths_may_begin_with_a_tilde(predict, tiny_checkpoint, videos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(tiny_checkpoint, tmp_path / "best.pyth")
    given = ["--checkpoint=~/best.pyth", "--output=~/new/o.csv", "--features=~/new/f.npz", "~/videos", "~/videos/gone"]
    outcome = predict(*given, "--quiet")
    assert f"{tmp_path}/videos/gone: no such file" in outcome.err
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["f.npz", "o.csv"]


def test_options_change_what_is_seen(predict, videos):
    plain = predict(videos, "--quiet").out
    assert predict(videos, "--crops", 3, "--quiet").out != plain
    assert predict("--quiet", videos, "DATA.TEST_CROP_SIZE", 32).out != plain
    assert predict(videos, "--views", 1, "--sampler", "uniform", "--batch-size", 1, "--quiet").out == plain


def test_files_hold_what_a_test_would_write_in_the_order_of_the_videos(predict, videos, tmp_path):
    (videos / "broken.mp4").write_text("text")
    table, data, features = tmp_path / "new/out.csv", tmp_path / "out.json", tmp_path / "features.npz"
    outcome = predict(videos, "--output", table, "--features", features)
    assert outcome.code == 3
    assert f"2 of 3 videos predicted: {table}, {features}" in outcome.out
    rows = list(csv.DictReader(table.read_text().splitlines()))
    names = [str(videos / name) for name in ("a", "broken.mp4", "deep/er/b")]
    assert [row["video"] for row in rows] == names
    columns = [f"{what}_{rank}" for rank in (1, 2, 3) for what in ("class", "probability")]
    assert list(rows[0]) == ["video", *columns, "error"]
    assert sum(float(rows[0][f"probability_{rank}"]) for rank in (1, 2, 3)) == pytest.approx(1, abs=1e-5)
    assert (rows[1]["class_1"], rows[1]["error"][:40]) == ("", f"{names[1]}: not a video"[:40])

    predict(videos, "--output", data)
    written = json.loads(data.read_text())
    assert written["class_names"] == ["catch", "walk", "wave"]
    assert [video["video"] for video in written["videos"]] == names
    for row, video in zip(rows, written["videos"], strict=True):
        assert [top["class"] for top in video["top"]] == [row[c] for c in columns[::2] if row[c]]
        assert [f"{top['probability']:.6f}" for top in video["top"]] == [row[c] for c in columns[1::2] if row[c]]
        assert video["error"] == row["error"]

    arrays = np.load(features)
    assert arrays["names"].tolist() == [names[0], names[2]]
    assert arrays["embeddings"].dtype == np.float32
    assert arrays["embeddings"].shape == (2, 16)
    assert len(np.unique(arrays["embeddings"])) > 16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.npz", "new", "out.json", "videos"]


def test_features_alone_and_of_nothing(predict, videos, tmp_path):
    assert predict(videos, "--features", tmp_path / "all.npz", "--quiet").code == 0
    assert np.load(tmp_path / "all.npz")["embeddings"].shape == (2, 16)
    assert predict("missing.mp4", "--features", tmp_path / "none.npz", "--quiet").code == 3
    assert np.load(tmp_path / "none.npz")["names"].shape == (0,)


def test_killed_at_work_it_goes_on_and_ends_as_if_it_had_not_been(
    predict, tiny_checkpoint, tiny_data, tmp_path, monkeypatch
):
    videos, output, features = tmp_path / "videos", tmp_path / "out.csv", tmp_path / "features.npz"
    for number, clip in enumerate(sorted(tiny_data.glob("*/*/*"))[:9]):
        shutil.copytree(clip, videos / str(number))
    arguments = [videos, "--output", output, "--features", features, "--batch-size", 2, "--views", 3, "--quiet"]
    assert predict(*arguments).code == 0
    unbroken = output.read_bytes(), features.read_bytes()
    output.unlink()
    features.unlink()

    frame, hanging = (videos / "5/0.jpg").read_bytes(), videos / "5/0.jpg"
    hanging.unlink()
    os.mkfifo(hanging)
    command = [sys.executable, ROOT / "tools/predict.py", "--checkpoint", tiny_checkpoint, "--device", "cpu"]
    process = subprocess.Popen([*map(str, [*command, "--workers", 1, *arguments])], cwd=tmp_path)
    journal = tmp_path / "out.csv.unfinished"
    until(lambda: (journal.exists() and journal.read_bytes().count(b"\n") > 4) or process.poll() is not None)
    with held_open(hanging):
        process.kill()
        assert process.wait() == -signal.SIGKILL
    until(lambda: not is_read(hanging))  # no process stays behind

    hanging.unlink()
    hanging.write_bytes(frame)
    *whole, last = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(whole) + last[:-9])  # as if it had been killed amid a line
    opened = []
    from timesformer.datasets import clips

    open_video = clips.open_video
    monkeypatch.setattr(clips, "open_video", lambda path, **options: opened.append(path) or open_video(path, **options))
    assert predict(*arguments).code == 0
    done = [json.loads(line)["video"] for line in whole[1:]]
    assert len(done) >= 3
    assert not set(opened) & set(done)  # nothing is done again
    assert (output.read_bytes(), features.read_bytes()) == unbroken
    assert not list(tmp_path.glob("*.unfinished"))


@contextmanager
def held_open(fifo: Path) -> Iterator[None]:
    """Waits for a process to read it, and lets it wait in turn."""
    held: list[int] = []
    until(lambda: is_read(fifo, held))
    yield
    os.close(*held)


def is_read(fifo: Path, held: list[int] | None = None) -> bool:
    """Whether a process reads it; the other end, which keeps it waiting, is given to `held`."""
    try:
        end = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    if held is None:
        os.close(end)
    else:
        held.append(end)
    return True


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def begun(videos: Path, predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output of a command that was interrupted after all was known."""
    from timesformer.inference.prediction_files import PredictionFiles

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionFiles, "finish", interrupted)
        outcome = predict(videos, "--output", tmp_path / "out.csv")
    assert outcome.code == 128 + signal.SIGTERM
    assert "interrupted; the same command goes on" in outcome.err
    return tmp_path / "out.csv"


def test_what_was_begun_otherwise_is_not_gone_on_with(predict, videos, begun):
    outcome = predict(videos, "--output", begun, "--views", 2, "--top-k", 1)
    assert outcome.code == 2
    assert f"{begun}.unfinished holds predictions that were made otherwise: " in outcome.err
    assert "TEST.NUM_ENSEMBLE_VIEWS was 1, is 2" in outcome.err
    assert "top_k was 5, is 1" in outcome.err
    assert predict(videos, "--output", begun, "DATA.DECODE_TIMEOUT", 9, "--batch-size", 1).code == 0
    assert len(begun.read_text().splitlines()) == 3


def test_other_videos_may_be_asked_for_when_going_on(predict, videos, begun, tiny_data):
    shutil.copytree(tiny_data / "test/wave/test0", videos / "c")
    shutil.rmtree(videos / "a")
    assert predict(videos, "--output", begun).code == 0
    rows = list(csv.DictReader(begun.read_text().splitlines()))
    assert [row["video"] for row in rows] == [f"{videos}/c", f"{videos}/deep/er/b"]


def test_files_that_are_there_are_replaced_only_when_told(predict, videos, tmp_path):
    output = tmp_path / "out.csv"
    output.write_text("dear")
    outcome = predict(videos, "--output", output)
    assert (outcome.code, output.read_text()) == (2, "dear")
    assert f"{output} exists already: give another --output or --features, or --overwrite" in outcome.err
    assert predict(videos, "--output", output, "--overwrite").code == 0
    assert output.read_text() != "dear"


def test_files_of_others_are_left_alone(predict, videos, tmp_path):
    foreign = tmp_path / "out.csv.unfinished"
    foreign.write_text("dear\n")
    outcome = predict(videos, "--output", tmp_path / "out.csv")
    assert (outcome.code, foreign.read_text()) == (2, "dear\n")
    assert "is none of this program's files" in outcome.err


def test_two_do_not_write_the_same_file(predict, videos, begun):
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    command = [sys.executable, "-c", script, f"{begun}.unfinished"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        outcome = predict(videos, "--output", begun)
        other.communicate(b"\n")
    assert outcome.code == 2
    assert "is being written by another process" in outcome.err
    assert predict(videos, "--output", begun).code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a video, or a folder of videos"),
        (["DATA.SAMPLING_RATE", "2"], "name a video, or a folder of videos"),
        (["a.mp4", "--output", "a.txt"], "--output a.txt: expected a name that ends in .csv or .json"),
        (["a.mp4", "--features", "a.npy"], "--features a.npy: expected a name that ends in .npz"),
        (["a.mp4", "--top-k", "0"], "expected a whole number of 1 or more"),
        (["{tmp}"], "{tmp} holds no videos"),
        (["a.mp4", "--checkpoint", "{tmp}/no.pyth"], "{tmp}/no.pyth cannot be read as a checkpoint"),
        (["a.mp4", "DATA.SAMPLE", "x"], "DATA.SAMPLE is not an option; the nearest is DATA.SAMPLER"),
        (["a.mp4", "--sampler", "odd"], "DATA.TEST_SAMPLER is 'odd', expected"),
    ],
)
def test_what_cannot_be_done_is_told(arguments, said, predict, tmp_path):
    outcome = predict(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert outcome.code == 2
    assert said.format(tmp=tmp_path) in outcome.err
