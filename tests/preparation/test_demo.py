"""The demo dataset: its files, and that only motion distinguishes its classes."""

from pathlib import Path

import av
import numpy as np
import pytest

from timesformer.commands import prepare
from timesformer.preparation import demo
from timesformer.preparation.demo_classes import CLASSES


def run(out_dir: Path, *arguments: str) -> int:
    try:
        return prepare.main(["demo", str(out_dir), *arguments])
    except SystemExit as error:  # argparse's
        return error.code


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.mp4")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "set"
    assert run(folder, "--clips-per-class", "2", "1", "1", "--workers", "2") == 0
    return folder


def test_every_class_has_different_h264_clips(made: Path) -> None:
    assert len(CLASSES) == 8
    assert sorted(path.name for path in made.iterdir()) == ["demo.json", "test", "train", "val"]
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        found = {folder.name: len(list(folder.glob("*.mp4"))) for folder in (made / split).iterdir()}
        assert found == dict.fromkeys(CLASSES, count)
    assert len(set(contents(made).values())) == 32
    for path in made.rglob("*.mp4"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert (stream.width, stream.height, stream.average_rate) == (demo.SIDE, demo.SIDE, demo.FPS)
            assert sum(1 for _ in container.decode(stream)) == stream.frames == demo.FRAMES


def test_encoding_keeps_the_picture(tmp_path: Path) -> None:
    frames = demo.render(demo.draw_scene(np.random.default_rng(3)), "up")
    demo.encode(frames, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.abs(decoded.astype(float) - frames).mean() < 8  # gray levels; noise and color resolution are lost


@pytest.mark.slow
def test_files_depend_on_the_seed_only(made: Path, tmp_path: Path) -> None:
    for name, *options in (("same", "--workers", "1"), ("other", "--seed", "1")):
        assert run(tmp_path / name, "--clips-per-class", "1", "1", "1", *options) == 0
    first, same, other = contents(made), contents(tmp_path / "same"), contents(tmp_path / "other")
    assert len(same) == len(other) == 24
    assert all(first[name] == clip for name, clip in same.items())
    assert not set(first.values()) & set(other.values())


@pytest.mark.parametrize(
    ("forward", "backward"), [("right", "left"), ("down", "up"), ("down_right", "up_left"), ("grow", "shrink")]
)
def test_a_class_has_the_frames_of_its_opposite_in_reverse(forward: str, backward: str) -> None:
    for seed in range(3):
        scene = demo.draw_scene(np.random.default_rng(seed))
        frames = demo.render(scene, forward)
        np.testing.assert_array_equal(demo.render(scene, backward), frames[::-1])
        assert np.abs(frames[0].astype(float) - frames[-1]).max() > 60  # not the same in both directions


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
def test_the_object_moves_as_its_class_says(class_name: str, direction: tuple[int, int, int]) -> None:
    for seed in range(5):
        centers, radii = demo.motion(demo.draw_scene(np.random.default_rng(seed)), class_name)
        steps = np.diff(np.column_stack([centers, radii]), axis=0)  # [frames - 1, (x, y, radius)]
        assert np.allclose(np.sign(np.where(np.abs(steps) < 1e-12, 0, steps)), direction)


@pytest.mark.slow
def test_one_frame_does_not_show_the_class_and_two_in_order_do() -> None:
    rng = np.random.default_rng(0)
    one_frame, two_frames, labels = [], [], []
    for label, class_name in enumerate(CLASSES):
        for _ in range(100):
            centers, radii = demo.motion(demo.draw_scene(rng), class_name)
            states = np.column_stack([centers, np.log2(radii) / 2])
            one_frame.append(states[rng.integers(demo.FRAMES)])
            two_frames.append(states[-1] - states[0])
            labels.append(label)
    # 400 held-out predictions of one of eight classes: 12.5 % expected, standard deviation 1.7.
    assert nearest_neighbour_accuracy(np.array(one_frame), np.array(labels)) < 0.19
    assert nearest_neighbour_accuracy(np.array(two_frames), np.array(labels)) > 0.99


def nearest_neighbour_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    known, queries = features[::2], features[1::2]
    nearest = np.square(queries[:, None] - known[None]).sum(axis=-1).argmin(axis=1)
    return float((labels[::2][nearest] == labels[1::2]).mean())


@pytest.mark.slow
def test_the_same_set_is_kept_and_another_replaces_it(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    run(folder, "--clips-per-class", "1", "1", "1")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}
    assert run(folder, "--clips-per-class", "1", "1", "1") == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")} == times
    assert run(folder, "--seed", "5", "--clips-per-class", "1", "2", "1") == 0
    assert len(list(folder.glob("val/up/*.mp4"))) == 2
    assert not (tmp_path / "set.partial").exists()


@pytest.mark.parametrize("clips", ["1", "0"])
def test_folders_of_other_files_and_invalid_counts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], clips: str
) -> None:
    out_dir = tmp_path if clips == "1" else tmp_path / "set"
    (tmp_path / "thesis.txt").write_text("years of work")
    assert run(out_dir, "--clips-per-class", clips, "1", "1") == 2
    assert (str(out_dir) if clips == "1" else "--clips-per-class") in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
