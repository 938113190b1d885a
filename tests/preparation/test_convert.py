"""Converting clips: every frame once and in order, into another folder, whole or not there, going on after a stop."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from timesformer.datasets.decoding.open import VideoError, open_video
from timesformer.datasets.records import DataError
from timesformer.datasets.workers.pool import Outcome
from timesformer.preparation import convert as module
from timesformer.preparation import reencode as reencode_module
from timesformer.preparation.clips_on_disk import find_clips
from timesformer.preparation.convert import NOTE, SIZES, Job, convert
from timesformer.preparation.jpeg_frames import extract_frames
from timesformer.preparation.reencode import even_size, reencode


def scene(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A frame that tells its number: a bar at a place of its own, on grounds of different colour."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[: height // 2] = 200, 60, 60
    frame[height // 2 :] = 60, 60, 200
    frame[:, 4 * number % width : 4 * number % width + 4] = 255
    return frame


def frames_of(path: Path) -> list[np.ndarray]:
    with open_video(path) as video:
        return [frame.astype(int) for frame in video.frames()]


def assert_same_frames(path: Path, expected: Sequence[np.ndarray]) -> None:
    found = frames_of(path)
    assert len(found) == len(expected)
    for number, frame in enumerate(found):
        errors = [np.abs(frame - other.astype(int)).mean() for other in expected]
        assert int(np.argmin(errors)) == number
        assert min(errors) < 8


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_every_frame_comes_once_and_in_order_with_close_key_frames(
    tmp_path: Path, make_video: Callable[..., Path], codec: str
) -> None:
    source = make_video(tmp_path / "x.avi", [scene(number) for number in range(15)], codec, bf="2", g="250")
    reencode(Job(str(source), str(tmp_path / "out/x.mp4"), 256, 90))
    assert_same_frames(tmp_path / "out/x.mp4", frames_of(source))
    with av.open(str(tmp_path / "out/x.mp4")) as container:
        stream = container.streams[0]
        assert len(container.streams) == 1
        assert (stream.codec_context.name, stream.pix_fmt, float(stream.average_rate)) == ("h264", "yuv420p", 25.0)
        keys = [number for number, packet in enumerate(container.demux(stream)) if packet.is_keyframe]
        assert {0, 12} <= set(keys)  # and where the picture changes altogether
        container.seek(0)
        assert {av.video.frame.PictureType(f.pict_type).name for f in container.decode(stream)} == {"I", "P"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.mp4"]


def test_the_short_side_is_scaled_down_never_up_and_even() -> None:
    assert even_size(640, 480, 256) == (342, 256)
    assert even_size(480, 640, 256) == (256, 342)
    assert even_size(320, 240, 256) == (320, 240)
    assert even_size(45, 33, 256) == (44, 32)
    assert even_size(1920, 1080, 0) == (1920, 1080)
    assert even_size(1, 1, 256) == (2, 2)


def test_a_large_clip_becomes_a_small_one(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    source = make_video(tmp_path / "x.mp4", [scene(number, 160, 120) for number in range(4)])
    reencode(Job(str(source), str(tmp_path / "y.mp4"), 24, 90))
    extract_frames(Job(str(source), str(tmp_path / "y"), 24, 90))
    assert frames_of(tmp_path / "y.mp4")[0].shape == frames_of(tmp_path / "y")[0].shape == (24, 32, 3)


def test_rotation_is_applied(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    source = make_video(tmp_path / "x.mp4", [scene(number) for number in range(3)], "libx264", rotation=90)
    turned = frames_of(source)
    assert turned[0].shape == (64, 48, 3)
    for make, target in ((reencode, tmp_path / "y.mp4"), (extract_frames, tmp_path / "y")):
        make(Job(str(source), str(target), 0, 95))
        assert_same_frames(target, turned)


def test_unequal_times_are_kept_as_frames_and_sound_is_left_out(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "x.mp4"), "w") as container:
        video = container.add_stream("libx264", 25, options={"bf": "2"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", 16000)
        for number, time in enumerate((0, 10, 500, 510, 2000)):
            frame = av.VideoFrame.from_ndarray(scene(number), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(video.encode(frame))
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        noise.sample_rate = 16000
        container.mux(sound.encode(noise))
        container.mux(sound.encode())
        container.mux(video.encode())
    reencode(Job(str(tmp_path / "x.mp4"), str(tmp_path / "y.mp4"), 256, 90))
    assert_same_frames(tmp_path / "y.mp4", [scene(number) for number in range(5)])
    with av.open(str(tmp_path / "y.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_folders_of_frames_go_both_ways(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    source = make_video(tmp_path / "x.avi", [scene(number) for number in range(11)])
    extract_frames(Job(str(source), str(tmp_path / "frames"), 0, 95))
    assert sorted(path.name for path in (tmp_path / "frames").iterdir())[:2] == ["000001.jpg", "000002.jpg"]
    assert_same_frames(tmp_path / "frames", frames_of(source))
    reencode(Job(str(tmp_path / "frames"), str(tmp_path / "back.mp4"), 0, 0))
    assert_same_frames(tmp_path / "back.mp4", frames_of(source))


def test_lower_quality_makes_smaller_frames(tmp_path: Path, make_frames: Callable[..., Path]) -> None:
    source = tmp_path / "x.avi"
    sizes = []
    for quality in (95, 30):
        extract_frames(Job(str(make_frames(tmp_path / f"in{quality}", 1, 200, 200)), str(source), 0, quality))
        sizes.append((source / "000001.jpg").stat().st_size)
    assert sizes[0] > sizes[1]


@pytest.mark.parametrize("fault", ["one less", "swapped"])
def test_a_copy_that_is_not_the_same_is_refused(
    tmp_path: Path, make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    source = make_video(tmp_path / "x.avi", [scene(number) for number in range(6)])
    write = reencode_module._write

    def faulty(job: Job, partial: Path) -> list[np.ndarray]:
        thumbnails = write(job, partial)
        if fault == "swapped":
            thumbnails[2], thumbnails[3] = thumbnails[3], thumbnails[2]
        return thumbnails + thumbnails[-1:] * (fault == "one less")

    monkeypatch.setattr(reencode_module, "_write", faulty)
    expected = "frame 2 of its copy is not" if fault == "swapped" else "its copy has 6 frames, expected 7"
    with pytest.raises(VideoError, match=expected):
        reencode(Job(str(source), str(tmp_path / "y.mp4"), 256, 90))
    assert [path.name for path in tmp_path.iterdir()] == ["x.avi"]


class TestDataset:
    @pytest.fixture
    def root(self, tmp_path: Path, make_video: Callable[..., Path]) -> Path:
        """A dataset of two readable clips and a broken one, with a list."""
        root = tmp_path / "data"
        make_video(root / "UCF-101/wave/a.avi", [scene(number) for number in range(5)])
        make_video(root / "UCF-101/wave/b.mp4", [scene(number) for number in range(6)])
        (root / "UCF-101/wave/broken.mp4").write_bytes(b"no video")
        (root / "lists").mkdir()
        (root / "lists/classInd.txt").write_text("1 wave\n")
        (root / "manifest.csv").write_text("of these clips, not of those made")
        return root

    @pytest.fixture
    def made(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The clips made so far; in this process, without others."""
        clips: list[str] = []

        def here(make: Callable[[Job], None], jobs: Sequence[Job], *_: Any) -> Iterator[Outcome]:
            for job in jobs:
                clips.append(Path(job.source).name)
                try:
                    yield Outcome(job, make(job))
                except VideoError as error:
                    yield Outcome(job, problem=str(error))

        monkeypatch.setattr(module, "in_processes", here)
        return clips

    @staticmethod
    def run(root: Path, frames: bool = False, short_side: int = 256) -> dict[str, str]:
        make, suffix = (extract_frames, "") if frames else (reencode, ".mp4")
        output = root.with_name("frames" if frames else "small")
        return convert(root, find_clips(root), output, make, suffix, short_side, 90, 2)

    def test_clips_keep_their_names_and_lists_come_along(self, root: Path, tmp_path: Path) -> None:
        before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        failed = self.run(root)
        assert list(failed) == ["UCF-101/wave/broken.mp4"]
        assert "not a video that can be decoded" in failed["UCF-101/wave/broken.mp4"]
        self.run(root, frames=True)
        names = ["UCF-101/wave/a", "UCF-101/wave/b", "UCF-101/wave/broken"]
        assert find_clips(tmp_path / "small") == [f"{name}.mp4" for name in names]
        assert find_clips(tmp_path / "frames") == [*names[:2], "UCF-101/wave/broken.mp4"]
        assert_same_frames(tmp_path / "small/UCF-101/wave/a.mp4", frames_of(root / "UCF-101/wave/a.avi"))
        for output in (tmp_path / "small", tmp_path / "frames"):
            assert (output / "lists/classInd.txt").read_text() == "1 wave\n"
            assert (output / "UCF-101/wave/broken.mp4").read_bytes() == b"no video"
            assert not (output / "manifest.csv").exists()
        assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before

    def test_what_is_done_is_not_done_again_but_what_failed_is(
        self, root: Path, tmp_path: Path, made: list[str]
    ) -> None:
        self.run(root)
        assert made == ["a.avi", "b.mp4", "broken.mp4"]
        made.clear()
        shutil.copyfile(root / "UCF-101/wave/b.mp4", root / "UCF-101/wave/broken.mp4")
        assert self.run(root) == {}
        assert made == ["broken.mp4"]
        assert len(frames_of(tmp_path / "small/UCF-101/wave/broken.mp4")) == 6
        assert json.loads((tmp_path / "small" / NOTE).read_text())["copied_as_it_was"] == {}
        made.clear()
        (tmp_path / "small" / SIZES).unlink()  # as of a folder made before sizes were written down
        self.run(root)
        self.run(root)
        assert made == []

    def test_a_clip_that_changed_is_made_again(
        self, root: Path, tmp_path: Path, make_video: Callable[..., Path], made: list[str]
    ) -> None:
        self.run(root)
        made.clear()
        make_video(root / "UCF-101/wave/a.avi", [scene(number) for number in range(9)])
        (root / "UCF-101/wave/b.mp4").write_bytes(b"torn now")
        assert sorted(self.run(root)) == ["UCF-101/wave/b.mp4", "UCF-101/wave/broken.mp4"]
        assert made == ["a.avi", "b.mp4", "broken.mp4"]
        assert len(frames_of(tmp_path / "small/UCF-101/wave/a.mp4")) == 9
        (root / "UCF-101/wave/a.avi").write_bytes(b"torn too")
        self.run(root)
        assert sorted(path.name for path in (tmp_path / "small/UCF-101/wave").iterdir()) == [
            *("a.avi", "b.mp4", "broken.mp4")
        ]

    def test_lists_that_are_there_stay_as_they_are(
        self, root: Path, tmp_path: Path, made: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        self.run(root)
        (tmp_path / "small/lists/classInd.txt").write_text("1 my_wave\n")
        (root / "lists/more.txt").write_text("2 more\n")
        self.run(root)
        assert (tmp_path / "small/lists/classInd.txt").read_text() == "1 my_wave\n"
        assert (tmp_path / "small/lists/more.txt").read_text() == "2 more\n"
        assert "small/lists/classInd.txt is not what" in caplog.text

    @pytest.mark.parametrize("note", [b"{torn", b"\xff", b"[]", b"{}", b'{"copied_as_it_was": 3}'])
    def test_a_damaged_note_is_told(self, root: Path, tmp_path: Path, made: list[str], note: bytes) -> None:
        self.run(root)
        (tmp_path / "small" / NOTE).write_bytes(note)
        with pytest.raises(DataError, match=r"small/conversion.json does not say how .* give another --output"):
            self.run(root)

    def test_the_quality_counts_for_frames_alone(self, root: Path, tmp_path: Path, made: list[str]) -> None:
        for quality in (90, 80):
            convert(root, find_clips(root), tmp_path / "small", reencode, ".mp4", 256, quality, 1)
        convert(root, find_clips(root), tmp_path / "frames", extract_frames, "", 256, 90, 1)
        with pytest.raises(DataError, match=r"frames has clips made with .*90"):
            convert(root, find_clips(root), tmp_path / "frames", extract_frames, "", 256, 80, 1)

    def test_a_copy_of_a_broken_clip_gives_way_to_its_frames(self, root: Path, tmp_path: Path, made: list[str]) -> None:
        self.run(root, frames=True)
        shutil.copyfile(root / "UCF-101/wave/b.mp4", root / "UCF-101/wave/broken.mp4")
        self.run(root, frames=True)
        assert [path.name for path in sorted((tmp_path / "frames/UCF-101/wave").iterdir())] == ["a", "b", "broken"]

    @pytest.mark.parametrize("frames", [False, True])
    def test_a_run_that_was_killed_leaves_nothing_half_done_and_goes_on(
        self, root: Path, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch, frames: bool
    ) -> None:
        real = module.in_processes

        def killed(make: Callable[[Job], None], jobs: Sequence[Job], *_: Any) -> Iterator[Outcome]:
            yield next(real(make, jobs[:1]))
            target = Path(jobs[1].target)  # as a process leaves it that is killed amid writing
            partial = target.with_name(f".{target.name}.partial")
            if frames:
                partial.mkdir(parents=True)
                (partial / "000001.jpg").write_bytes(b"half")
            else:
                partial.write_bytes(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(module, "in_processes", killed)
        with pytest.raises(KeyboardInterrupt):
            self.run(root, frames)
        output = tmp_path / ("frames" if frames else "small")
        assert find_clips(output) == ["UCF-101/wave/a" + ".mp4" * (not frames)]
        monkeypatch.setattr(module, "in_processes", real)
        made.clear()
        self.run(root, frames)
        assert made == ["b.mp4", "broken.mp4"]
        assert_same_frames(output / f"UCF-101/wave/b{'' if frames else '.mp4'}", frames_of(root / "UCF-101/wave/b.mp4"))
        assert not [path for path in output.rglob("*") if path.name.startswith(".")]

    def test_other_settings_want_another_folder(self, root: Path, made: list[str]) -> None:
        self.run(root)
        with pytest.raises(DataError, match=r"small has clips made with .*256.*, not .*128.*: give another --output"):
            self.run(root, short_side=128)

    @pytest.mark.parametrize("output", [".", "in", ".."])
    def test_the_source_is_never_written(self, root: Path, output: str) -> None:
        with pytest.raises(DataError, match="give --output a folder of its own"):
            convert(root, find_clips(root), root / output, reencode, ".mp4", 256, 90, 1)

    def test_two_clips_never_become_one(self, root: Path, made: list[str]) -> None:
        shutil.copyfile(root / "UCF-101/wave/b.mp4", root / "UCF-101/wave/a.mp4")
        with pytest.raises(DataError, match=r"would become one:\n  UCF-101/wave/a.avi and UCF-101/wave/a.mp4"):
            self.run(root)
