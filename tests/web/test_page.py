"""The page in a browser, which loads nothing from other hosts."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.datasets.made_videos import ffmpeg
from tests.patience import PATIENCE
from tests.web.conftest import CLASSES, write_model
from timesformer import load_model
from timesformer.inference.classifier import Classifier
from timesformer.localization.timeline import find_actions

pytest.importorskip("streamlit", reason="Streamlit is not installed: pip install -e '.[app]'")
playwright_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

from timesformer.web.page import format_percent  # noqa: E402

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, clips: list[Path]) -> Path:
    """A folder with best.pyth, fallback.pyth (not confident, other classes), examples/ and temporary/."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(checkpoint, folder / "best.pyth")
    write_model(folder / "fallback.pyth", tuple(f"sport {number}" for number in range(12)), 0.1)
    (folder / "examples").mkdir()
    (folder / "temporary").mkdir()
    shutil.copy(clips[0], folder / "examples" / "first.mp4")
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The address of the running page."""
    options = ["--checkpoint", "best.pyth", "--fallback", "fallback.pyth", "--examples", "examples", "--device", "cpu"]
    options += ["--max-decoding-seconds", str(PATIENCE)]
    environment = os.environ | {"STREAMLIT_SERVER_HEADLESS": "true"}
    environment |= {"TMPDIR": str(folder / "temporary"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tools" / "app.py"), *options, "--max-megabytes", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    server = subprocess.Popen(command, cwd=folder, env=environment, **pipes)
    try:
        found = (re.search(r"URL: (http://127\.0\.0\.1:\d+)", line) for line in server.stdout)
        address = next(filter(None, found), None)
        assert address, "the page did not start"
        yield address[1]
    finally:
        server.terminate()
        out, _ = server.communicate(timeout=PATIENCE)
    assert "Traceback" not in out, out
    assert not list((folder / "temporary").glob("timesformer-upload-*"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium fonts-dejavu-core")
    playwright_api.expect.set_options(timeout=1000 * PATIENCE)
    with playwright_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", *QUIET]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, address: str) -> Iterator[Callable[..., Any]]:
    """visit(**options): the page in a new browser context. No request may go to another host."""
    contexts, requests = [], []

    def open_page(**options: Any) -> Any:
        context = chromium.new_context(**options)
        contexts.append(context)
        context.on("request", lambda request: requests.append(urlsplit(request.url)))
        context.set_default_timeout(1000 * PATIENCE)
        page = context.new_page()
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not [url for url in requests if url.scheme not in ("data", "blob") and url.hostname != "127.0.0.1"]


@pytest.fixture(scope="module")
def classifier(checkpoint: Path) -> Classifier:
    return load_model(checkpoint, "cpu")


def upload(page: Any, path: Path) -> None:
    page.locator("input[type=file]").set_input_files(path)


def bars_of(page: Any) -> Any:
    return page.locator(".st-key-top").get_by_test_id("stProgress")


def expect_prediction(page: Any, classifier: Classifier, path: Path, **options: Any) -> None:
    """Waits for the classes and percentages that the classifier predicts."""
    expected = [f"{name} {format_percent(p)}" for name, p in classifier.predict(path, **options).top]
    playwright_api.expect(bars_of(page)).to_have_text(expected)


def choose(box: Any, name: str) -> None:
    """Selects an option of a list, which late parts of the page may close after it was opened."""
    for _ in range(20):
        box.click()
        with suppress(playwright_api.TimeoutError):
            return box.page.get_by_role("option", name=name).click(timeout=3000)
    return pytest.fail(f"no option {name}")


def player_of(page: Any) -> Any:
    return page.locator(".st-key-player video")


def wait_until_playable(page: Any) -> None:
    page.wait_for_function("document.querySelector('.st-key-player video')?.readyState > 1")


def download(page: Any, label: str) -> str:
    # While the page is computed, the button may still be that of an earlier answer, whose file is gone.
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
    with page.expect_download() as started:
        page.get_by_text(label).click()
    return Path(started.value.path()).read_text()


def test_upload(visit: Callable[..., Any], clips: list[Path], classifier: Classifier) -> None:
    page = visit()
    page.get_by_text("clap & wave").wait_for()
    upload(page, clips[1])
    expect_prediction(page, classifier, clips[1])
    frames = page.locator(".st-key-frames")
    for seconds in ("0.00 s", "0.20 s", "0.40 s", "0.60 s"):
        frames.get_by_text(seconds).wait_for()
    playwright_api.expect(frames.locator("img")).to_have_count(4)
    page.get_by_text("view 2", exact=True).click()
    frames.get_by_text("0.80 s").wait_for()
    page.get_by_text("Show where the model looks").click()
    playwright_api.expect(page.locator(".st-key-attention img")).to_have_count(4)
    page.get_by_text("Technical details").click()
    details = page.locator(".st-key-details").inner_text()
    for detail in ("clip1.mp4", "32 × 32 pixels", "1.2 s", "TimeSformer", "best.pyth", "4 frames of 16 × 16", "cpu"):
        assert detail in details
    wait_until_playable(page)
    assert player_of(page).evaluate("video => video.duration") == pytest.approx(1.2, abs=0.05)


def test_answer_is_downloaded_and_its_size_is_its_confidence(
    visit: Callable[..., Any], clips: list[Path], classifier: Classifier
) -> None:
    page, sizes = visit(), {}
    for clip in clips[:3]:
        upload(page, clip)
        expect_prediction(page, classifier, clip)
        prediction = classifier.predict(clip)
        content = json.loads(download(page, "Download the answer"))
        assert content["class_names"] == list(CLASSES)
        (video,) = content["videos"]
        assert video["video"] == clip.name
        expected = prediction.to_dict()
        assert [entry["class"] for entry in video["top"]] == [entry["class"] for entry in expected["top"]]
        assert video["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
        headline = page.locator(".headline")
        playwright_api.expect(headline).to_have_text(prediction.top[0][0])
        sizes[prediction.top[0][1]] = float(headline.evaluate("e => parseFloat(getComputedStyle(e).fontSize)"))
    ranked = [sizes[probability] for probability in sorted(sizes)]
    assert ranked == sorted(ranked)
    assert ranked[0] < ranked[-1]


def test_files_that_browsers_do_not_play_have_a_preview(
    visit: Callable[..., Any], clips: list[Path], tmp_path: Path
) -> None:
    ffmpeg("-i", clips[0], "-c:v", "mpeg4", tmp_path / "old.avi")
    page = visit()
    upload(page, tmp_path / "old.avi")
    wait_until_playable(page)
    assert player_of(page).evaluate("video => [video.videoWidth, video.videoHeight]") == [16, 16]  # the sampled frames


def test_actions_of_a_long_video(
    visit: Callable[..., Any], clips: list[Path], classifier: Classifier, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("".join(f"file '{clip}'\n" for clip in [*clips, *clips[:3]]))
    path = tmp_path / "long.mp4"
    ffmpeg("-f", "concat", "-safe", "0", "-i", tmp_path / "list.txt", "-c", "copy", path)
    page = visit()
    upload(page, path)
    segments = find_actions(classifier, path).segments
    lines = list(csv.DictReader(io.StringIO(download(page, "Download CSV"))))
    settings = json.loads(download(page, "Download JSON"))
    assert settings["leave"] == pytest.approx(0.8 * settings["threshold"])
    assert settings | {"min_length": 0.0, "background": [], "gaps": False, "crops": 1} == settings
    assert lines
    assert [line["class"] for line in lines] == [segment.class_name for segment in segments]
    borders = [float(line[border]) for line in lines for border in ("start", "end")]
    assert borders == pytest.approx([border for segment in segments for border in (segment.start, segment.end)])
    wait_until_playable(page)
    bars = page.locator(".st-key-chart .mark-rect path")
    playwright_api.expect(bars).to_have_count(len(lines))
    assert player_of(page).evaluate("video => video.paused")
    bars.last.click()
    page.wait_for_function("document.querySelector('.st-key-player video')?.paused === false")
    assert player_of(page).evaluate("video => video.currentTime") >= segments[-1].start
    cues = page.evaluate("[...document.querySelector('.st-key-player video').textTracks[0].cues].map(cue => cue.text)")
    assert len(cues) == len(lines)
    page.get_by_text("Find actions over time").click()
    expect_prediction(page, classifier, path)


def test_example_with_other_sampler_and_views(
    visit: Callable[..., Any], clips: list[Path], classifier: Classifier
) -> None:
    page = visit()
    page.get_by_text("Pick an example").click()
    choose(page.get_by_role("combobox").first, "first.mp4")
    expect_prediction(page, classifier, clips[0])
    page.get_by_text("Settings").click()
    page.get_by_role("slider").press("ArrowRight")
    page.get_by_text("view 3", exact=True).wait_for()
    choose(page.get_by_role("combobox").last, "segment")
    expect_prediction(page, classifier, clips[0], sampler="segment", views=3)


def test_invalid_uploads(
    visit: Callable[..., Any], no_clips: Callable[[str], Path], clips: list[Path], tmp_path: Path
) -> None:
    page = visit()
    notes = shutil.copy(no_clips("text"), tmp_path / "notes.txt")
    hostile = shutil.copy(no_clips("text"), tmp_path / "![x](http:..example.com) <img src=x onerror=alert(1)>.mp4")
    for path in (no_clips("cut"), no_clips("empty"), hostile, notes):
        upload(page, path)
        playwright_api.expect(page.get_by_test_id("stAlert")).to_contain_text(path.name)
    (tmp_path / "large.mp4").write_bytes(bytes(2**20 + 1))
    upload(page, tmp_path / "large.mp4")
    page.get_by_text("1.0MB or smaller").wait_for()
    assert bars_of(page).count() == 0
    upload(page, clips[0])
    playwright_api.expect(bars_of(page)).to_have_count(5)


def test_fallback_answers_for_broken_checkpoint(
    visit: Callable[..., Any], folder: Path, clips: list[Path], checkpoint: Path
) -> None:
    best, fallback = folder / "best.pyth", folder / "fallback.pyth"
    try:
        best.write_bytes(best.read_bytes()[:500])
        page = visit()
        alert = page.get_by_test_id("stAlert")
        playwright_api.expect(alert).to_contain_text("pretrained")
        playwright_api.expect(alert).not_to_contain_text(".pyth")
        upload(page, clips[0])
        playwright_api.expect(bars_of(page).first).to_contain_text("sport")
        playwright_api.expect(alert).to_have_count(2)  # the fallback is not sure
        fallback.rename(folder / "away.pyth")
        best.unlink()
        page.reload()
        playwright_api.expect(alert).to_have_count(1)
        playwright_api.expect(alert).not_to_contain_text(".pyth")
        playwright_api.expect(page.locator("input[type=file]")).to_have_count(0)
    finally:
        shutil.copy(checkpoint, best)
        if (folder / "away.pyth").exists():
            (folder / "away.pyth").rename(fallback)
    page.reload()
    page.get_by_text("clap & wave").wait_for()


def test_simultaneous_visitors_get_their_own_answers(
    visit: Callable[..., Any], clips: list[Path], classifier: Classifier
) -> None:
    pages = [visit(viewport={"width": 360, "height": 740}), visit(), visit()]
    for page, clip in zip(pages, clips, strict=False):
        upload(page, clip)
    for page, clip in zip(pages, clips, strict=False):
        expect_prediction(page, classifier, clip)
    assert pages[0].evaluate("document.documentElement.scrollWidth") <= 360
