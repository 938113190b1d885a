"""tools/predict.py: output, files, exit codes, and resuming after being killed."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, Outcome, load_command
from tests.datasets.made_videos import encode, moving_scene
from tests.patience import wait_until
from timesformer.datasets import clips
from timesformer.inference.prediction import Prediction
from timesformer.inference.prediction_files import PredictionFiles

Predict = Callable[..., Outcome]


@pytest.fixture
def predict(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Predict:
    """predict(arguments): what `python tools/predict.py --checkpoint ... arguments` does, in this process."""
    tool = load_command("predict")

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
    """A folder of two clips, at different depths, and a text file."""
    folder = tmp_path / "videos"
    shutil.copytree(tiny_data / "test/catch/test0", folder / "a")
    shutil.copytree(tiny_data / "test/walk/test1", folder / "deep/er/b")
    (folder / "notes.txt").write_text("no video")
    return folder


def test_a_line_for_each_video_and_the_unreadable_ones_at_the_end(predict: Predict, videos: Path):
    (videos / "deep" / "broken.mp4").write_text("text")
    outcome = predict(videos, "--top-k", 2)
    assert outcome.code == 3
    first, second = outcome.out.splitlines()
    assert (first.split(": ")[0], first.count("%")) == (f"{videos}/a", 2)
    assert second.startswith(f"{videos}/deep/er/b: ")
    assert outcome.err.splitlines()[-1].startswith(f"  {videos}/deep/broken.mp4: ")
    assert outcome.err.count("notes.txt") == 1
    assert len(predict(videos, "--quiet").err.splitlines()) == 2
    assert predict(videos / "a", "--top-k", 2, "--quiet") == (0, f"{first}\n", "")


def test_options_change_the_prediction(predict: Predict, videos: Path):
    plain = predict(videos, "--quiet").out
    assert predict(videos, "--crops", 3, "--quiet").out != plain
    assert predict("--quiet", videos, "DATA.TEST_CROP_SIZE", 32).out != plain
    assert predict(videos, "--views", 1, "--sampler", "uniform", "--batch-size", 1, "--quiet").out == plain


def test_files_hold_all_videos_in_order(predict: Predict, videos: Path, tmp_path: Path):
    (videos / "broken.mp4").write_text("text")
    table, data, features = tmp_path / "new/out.csv", tmp_path / "out.json", tmp_path / "features.npz"
    assert predict(videos, "--output", table, "--features", features).code == 3
    rows = list(csv.DictReader(table.read_text().splitlines()))
    names = [str(videos / name) for name in ("a", "broken.mp4", "deep/er/b")]
    assert [row["video"] for row in rows] == names
    columns = [f"{what}_{rank}" for rank in (1, 2, 3) for what in ("class", "probability")]
    assert list(rows[0]) == ["video", *columns, "error"]
    assert sum(float(rows[0][f"probability_{rank}"]) for rank in (1, 2, 3)) == pytest.approx(1, abs=1e-5)
    assert (rows[1]["class_1"], rows[1]["error"].split(":")[0]) == ("", names[1])

    predict(videos, "--output", data)
    written = json.loads(data.read_text())
    assert (written["class_names"], written["num_views"]) == (["catch", "walk", "wave"], 1)
    for row, video in zip(rows, written["videos"], strict=True):
        assert (video["video"], video["error"]) == (row["video"], row["error"])
        cells = [cell for top in video["top"] for cell in (top["class"], f"{top['probability']:.6f}")]
        assert cells == [row[column] for column in columns if row[column]]

    arrays = np.load(features)
    assert arrays["names"].tolist() == [names[0], names[2]]
    assert (arrays["embeddings"].dtype, arrays["embeddings"].shape) == (np.float32, (2, 16))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.npz", "new", "out.json", "videos"]
    assert predict("missing.mp4", "--features", tmp_path / "none.npz", "--quiet").code == 3
    assert np.load(tmp_path / "none.npz")["names"].shape == (0,)


@pytest.mark.slow
def test_a_killed_command_resumes_and_writes_the_same_files(
    predict: Predict, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    videos, output, features = tmp_path / "videos", tmp_path / "out.csv", tmp_path / "features.npz"
    for number, clip in enumerate(sorted(tiny_data.glob("*/*/*"))[:9]):
        shutil.copytree(clip, videos / str(number))
    arguments = [videos, "--output", output, "--features", features, "--batch-size", 2, "--views", 3, "--quiet"]
    assert predict(*arguments).code == 0
    uninterrupted = output.read_bytes(), features.read_bytes()
    output.unlink()
    features.unlink()

    hanging = (videos / "5/0.jpg").rename(tmp_path / "0.jpg")
    os.mkfifo(videos / "5/0.jpg")
    command = [sys.executable, ROOT / "tools/predict.py", "--checkpoint", tiny_checkpoint, "--device", "cpu"]
    process = subprocess.Popen([*map(str, [*command, "--workers", 1, *arguments])], cwd=tmp_path)
    journal = tmp_path / "out.csv.unfinished"
    wait_until(lambda: (journal.exists() and journal.read_bytes().count(b"\n") > 4) or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL

    hanging.rename(videos / "5/0.jpg")
    *whole, last = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(whole) + last[:-9])  # as if it was killed while it wrote a line
    opened, open_video = [], clips.open_video
    monkeypatch.setattr(clips, "open_video", lambda path, **options: opened.append(path) or open_video(path, **options))
    assert predict(*arguments).code == 0
    done = {json.loads(line)["video"] for line in whole[1:]}
    assert len(done) >= 3
    assert not done.intersection(opened)
    assert (output.read_bytes(), features.read_bytes()) == uninterrupted
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.fixture
def unfinished(videos: Path, predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output of a command that was interrupted before it wrote it."""

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionFiles, "finish", interrupt)
        assert predict(videos, "--output", tmp_path / "out.csv").code == 128 + signal.SIGTERM
    return tmp_path / "out.csv"


def test_other_settings_do_not_resume(predict: Predict, videos: Path, unfinished: Path):
    outcome = predict(videos, "--output", unfinished, "--views", 2, "--top-k", 1)
    assert outcome.code == 2
    assert all(name in outcome.err for name in (f"{unfinished}.unfinished", "TEST.NUM_ENSEMBLE_VIEWS", "top_k"))
    assert predict(videos, "--output", unfinished, "DATA.DECODE_TIMEOUT", 9, "--batch-size", 1).code == 0
    assert len(unfinished.read_text().splitlines()) == 3


def test_other_videos_resume(predict: Predict, videos: Path, unfinished: Path, tiny_data: Path):
    shutil.copytree(tiny_data / "test/wave/test0", videos / "c")
    shutil.rmtree(videos / "a")
    assert predict(videos, "--output", unfinished).code == 0
    rows = list(csv.DictReader(unfinished.read_text().splitlines()))
    assert [row["video"] for row in rows] == [f"{videos}/c", f"{videos}/deep/er/b"]


@pytest.mark.parametrize("name", ["out.csv", "out.csv.unfinished"])
def test_existing_files_are_replaced_only_with_overwrite(predict: Predict, videos: Path, tmp_path: Path, name: str):
    (tmp_path / name).write_text("dear\n")
    outcome = predict(videos, "--output", tmp_path / "out.csv")
    assert (outcome.code, (tmp_path / name).read_text()) == (2, "dear\n")
    assert str(tmp_path / name) in outcome.err
    assert predict(videos, "--output", tmp_path / "out.csv", "--overwrite").code == 0
    assert (tmp_path / "out.csv").read_text() != "dear\n"


def test_two_processes_cannot_write_the_same_file(predict: Predict, videos: Path, unfinished: Path):
    lock = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    command = [sys.executable, "-c", lock, f"{unfinished}.unfinished"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        outcome = predict(videos, "--output", unfinished)
        other.communicate(b"\n")
    assert (outcome.code, f"{unfinished}.unfinished" in outcome.err) == (2, True)


@pytest.mark.parametrize("name", ["CLIP.MP4", "CLIP.DAT", "README", "-x.mp4", "--quiet"])
def test_names_like_keys_and_options(predict: Predict, tiny_data: Path, tmp_path: Path, monkeypatch, name: str):
    monkeypatch.chdir(tmp_path)
    words = ["--", name] if name.startswith("-") else [name]
    missing = predict("--quiet", *words)
    assert missing.code == 3
    assert missing.err.splitlines()[-1].startswith(f"  {name}: ")
    shutil.copytree(tiny_data / "test/catch/test0", name)
    assert predict("--quiet", *words).out.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ""),
        (["DATA.SAMPLING_RATE", "2"], ""),
        (["a.mp4", "--output", "a.txt"], "a.txt"),
        (["a.mp4", "--features", "a.npy"], "a.npy"),
        (["a.mp4", "--top-k", "0"], "--top-k"),
        (["{tmp}"], "{tmp}"),
        (["a.mp4", "--checkpoint", "{tmp}/no.pyth"], "{tmp}/no.pyth"),
        (["a.mp4", "DATA.SAMPLE", "x"], "DATA.SAMPLER"),
        (["a.mp4", "--sampler", "odd"], "DATA.TEST_SAMPLER"),
    ],
)
def test_user_errors_exit_with_2(arguments: list[str], named: str, predict: Predict, tmp_path: Path):
    outcome = predict(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert (outcome.code, outcome.out) == (2, "")
    assert named.format(tmp=tmp_path) in outcome.err


def test_a_failure_before_the_first_prediction_leaves_no_files(tmp_path: Path) -> None:
    arguments = (["a.mp4", "b.mp4"], {}, tmp_path / "p.csv", tmp_path / "f.npz", False)

    def fail(*predictions: Prediction) -> None:
        with PredictionFiles(*arguments) as files:
            for prediction in predictions:
                files.add(1, prediction)
            raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        fail()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="failed"):
        fail(Prediction("b.mp4", error="empty"))
    with PredictionFiles(*arguments) as files:
        assert list(files.finished) == [1]


def test_a_video_much_longer_than_its_views_gets_a_warning(predict: Predict, tmp_path: Path) -> None:
    long, short = (encode(tmp_path / f"{n}.mp4", moving_scene(n, 48, 32), rate=4) for n in (40, 3))
    output = tmp_path / "p.json"
    assert all(predict(short, *more).err.count("--timeline") == 0 for more in ((), ("--output", output)))
    for more in ((), ("--output", output, "--overwrite")):
        outcome = predict(short, long, *more)
        assert outcome.code == 0
        assert f"{long}: used 0.2 s of 10 s" in outcome.err  # two frames, a quarter of a second apart
        assert "--timeline" in outcome.err
    lengths = [(video["used"], video["duration"]) for video in json.loads(output.read_text())["videos"]]
    assert lengths == [(0.25, 0.75), (0.25, 10.0)]
