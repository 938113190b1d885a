"""The demo dataset: what the command writes, and that only motion tells its classes apart."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "datasets" / "demo" / "make.py"
OPPOSITES = [("right", "left"), ("down", "up"), ("down_right", "up_left"), ("grow", "shrink")]


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_make", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_make"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run(out_dir: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "datasets/demo/make.py", str(out_dir), *arguments]
    return subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True, timeout=PATIENCE)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.mp4")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "set"
    done = run(folder, "--clips-per-class", "2", "1", "1", "--workers", "2")
    assert done.returncode == 0, done.stderr
    return folder


def test_every_class_has_the_clips_asked_for_in_every_split(made: Path, demo: ModuleType) -> None:
    assert len(demo.CLASSES) == 8
    assert sorted(path.name for path in made.iterdir()) == ["demo.json", "test", "train", "val"]
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        found = {folder.name: len(list(folder.glob("*.mp4"))) for folder in (made / split).iterdir()}
        assert found == dict.fromkeys(demo.CLASSES, count)


def test_clips_are_h264_files_with_every_frame(made: Path, demo: ModuleType) -> None:
    for path in made.rglob("*.mp4"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert (stream.width, stream.height, stream.average_rate) == (demo.SIDE, demo.SIDE, demo.FPS)
            assert sum(1 for _ in container.decode(stream)) == stream.frames == demo.FRAMES


def test_encoding_keeps_the_picture(tmp_path: Path, demo: ModuleType) -> None:
    frames = demo.render(demo.draw_scene(np.random.default_rng(3)), "up")
    demo.encode(frames, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.abs(decoded.astype(float) - frames).mean() < 8  # grey levels; noise and colour subsampling are lost


def test_no_two_clips_are_alike(made: Path) -> None:
    clips = contents(made)
    assert len(set(clips.values())) == len(clips) == 32


def test_the_same_seed_gives_the_same_files_whatever_the_workers_and_the_count(made: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "again", "--clips-per-class", "1", "1", "1", "--workers", "1").returncode == 0
    again, first = contents(tmp_path / "again"), contents(made)
    assert len(again) == 24
    assert all(first[name] == clip for name, clip in again.items())


def test_another_seed_gives_other_clips(made: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "other", "--seed", "1", "--clips-per-class", "1", "1", "1").returncode == 0
    assert not set(contents(tmp_path / "other").values()) & set(contents(made).values())


@pytest.mark.parametrize(("forward", "backward"), OPPOSITES)
def test_a_class_shows_the_frames_of_its_opposite_in_reverse(demo: ModuleType, forward: str, backward: str) -> None:
    for seed in range(3):
        scene = demo.draw_scene(np.random.default_rng(seed))
        frames = demo.render(scene, forward)
        np.testing.assert_array_equal(demo.render(scene, backward), frames[::-1])
        assert (
            np.abs(frames[0].astype(float) - frames[-1]).max() > 60
        )  # a clip that reads alike both ways tells nothing


@pytest.mark.parametrize(
    ("class_name", "direction"),
    [
        ("right", (1, 0, 0)),
        ("left", (-1, 0, 0)),
        ("down", (0, 1, 0)),
        ("up", (0, -1, 0)),
        ("down_right", (1, 1, 0)),
        ("up_left", (-1, -1, 0)),
        ("grow", (0, 0, 1)),
        ("shrink", (0, 0, -1)),
    ],
)
def test_the_object_moves_as_its_class_says(demo: ModuleType, class_name: str, direction: tuple[int, int, int]) -> None:
    for seed in range(5):
        centres, radii = demo.motion(demo.draw_scene(np.random.default_rng(seed)), class_name)
        steps = np.diff(np.column_stack([centres, radii]), axis=0)  # [frames - 1, (x, y, radius)]
        assert np.allclose(np.sign(np.where(np.abs(steps) < 1e-12, 0, steps)), direction)


def test_a_resting_axis_shows_what_a_played_one_shows_in_a_frame_at_random(demo: ModuleType) -> None:
    scene = demo.draw_scene(np.random.default_rng(0))
    frames_by_class = []
    for class_name, resting in (("right", "vertical"), ("down", "horizontal")):
        places = set()
        for frame in range(demo.FRAMES):
            rest = scene.rest.copy()
            rest[demo.AXES.index(resting)] = frame
            places |= {tuple(place.round(9)) for place in demo.motion(replace(scene, rest=rest), class_name).centres}
        frames_by_class.append(places)
    assert frames_by_class[0] == frames_by_class[1]
    assert len(frames_by_class[0]) > demo.FRAMES


def test_the_place_to_rest_is_any_frame_of_the_path_alike(demo: ModuleType) -> None:
    rest = np.concatenate([demo.draw_scene(np.random.default_rng(seed)).rest for seed in range(500)])
    counts = np.bincount(rest, minlength=demo.FRAMES)  # 100 expected, standard deviation 9.7
    assert len(counts) == demo.FRAMES
    assert counts.min() > 60
    assert counts.max() < 140


def test_one_frame_of_a_clip_does_not_tell_its_class_and_two_in_order_do(demo: ModuleType) -> None:
    rng = np.random.default_rng(0)
    one_frame, two_frames, labels = [], [], []
    for label, class_name in enumerate(demo.CLASSES):
        for _ in range(100):
            centres, radii = demo.motion(demo.draw_scene(rng), class_name)
            states = np.column_stack([centres, np.log2(radii) / 2])
            one_frame.append(states[rng.integers(demo.FRAMES)])
            two_frames.append(states[-1] - states[0])
            labels.append(label)
    labels = np.array(labels)
    # 400 held-out guesses at one of eight: 12.5 % expected, standard deviation 1.7.
    assert nearest_neighbour_accuracy(np.array(one_frame), labels) < 0.19
    assert nearest_neighbour_accuracy(np.array(two_frames), labels) > 0.99


def nearest_neighbour_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    known, asked = features[::2], features[1::2]
    nearest = np.square(asked[:, None] - known[None]).sum(axis=-1).argmin(axis=1)
    return float((labels[::2][nearest] == labels[1::2]).mean())


def test_making_the_same_set_again_leaves_it_alone_and_another_replaces_it(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    run(folder, "--clips-per-class", "1", "1", "1")
    changed = {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}
    again = run(folder, "--clips-per-class", "1", "1", "1")
    assert "there already" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")} == changed
    assert run(folder, "--seed", "5", "--clips-per-class", "1", "2", "1").returncode == 0
    assert len(list(folder.glob("val/up/*.mp4"))) == 2
    assert not (tmp_path / "set.partial").exists()


def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = run(tmp_path, "--clips-per-class", "1", "1", "1")
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert "demo.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_count_below_one_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    done = run(tmp_path / "set", "--clips-per-class", "0", "1", "1")
    assert done.returncode == 2
    assert "0 found, a whole number from 1 expected" in done.stderr
    assert not (tmp_path / "set").exists()
