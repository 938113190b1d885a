"""The page in a real browser: what a visitor sees, whatever they upload, and that nothing is fetched from elsewhere."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.patience import PATIENCE
from tests.web.conftest import write_model
from timesformer import load_model
from timesformer.inference.classifier import Classifier
from timesformer.web.markup import percent

pytest.importorskip("streamlit", reason="Streamlit is not installed: pip install -e '.[app]'")
playwright_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, clips: list[Path]) -> Path:
    """What the page is started with: best.pyth, fallback.pyth (unsure, of other classes), examples/, temporary/."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(checkpoint, folder / "best.pyth")
    write_model(folder / "fallback.pyth", tuple(f"sport {number}" for number in range(12)), 0.1)
    (folder / "examples").mkdir()
    (folder / "temporary").mkdir()
    shutil.copy(clips[0], folder / "examples" / "first.mp4")
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Where the page is served, started as a user would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = ["--checkpoint", "best.pyth", "--fallback", "fallback.pyth", "--examples", "examples", "--device", "cpu"]
    environment = {
        **os.environ,
        "STREAMLIT_SERVER_PORT": port,
        "STREAMLIT_SERVER_HEADLESS": "true",
        "TMPDIR": str(folder / "temporary"),
        "OMP_NUM_THREADS": "1",
    }
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "app.py"), *options, "--max-megabytes", "1"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = []
        for line in server.stdout:
            said.append(line)
            if "URL: http://127.0.0.1" in line:  # of no other address
                break
        else:
            pytest.fail("the page did not start:\n" + "".join(said))
        yield f"http://127.0.0.1:{port}"
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
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-quic", *QUIET]
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, address: str) -> Iterator[Callable[..., Any]]:
    """visit(**options): the page in a browser of its own; afterwards, no request may have left this machine."""
    contexts, elsewhere = [], []

    def note(request: Any) -> None:
        url = urlsplit(request.url)
        if url.scheme not in ("data", "blob") and url.hostname != "127.0.0.1":
            elsewhere.append(request.url)

    def open_page(**options: Any) -> Any:
        context = chromium.new_context(**options)
        contexts.append(context)
        context.on("request", note)
        context.set_default_timeout(1000 * PATIENCE)
        page = context.new_page()
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not elsewhere


@pytest.fixture(scope="module")
def classifier(checkpoint: Path) -> Classifier:
    return load_model(checkpoint, "cpu")


def upload(page: Any, path: Path) -> None:
    page.locator("input[type=file]").set_input_files(path)


def bars_of(page: Any) -> list[str]:
    """Names and percentages of the bars in turn."""
    page.get_by_test_id("bars").wait_for()
    return page.get_by_test_id("bars").locator(".name, .value").all_text_contents()


def bars_for(classifier: Classifier, path: Path, **options: Any) -> list[str]:
    return [text for name, p in classifier.predict(path, **options).top for text in (name, percent(p))]


def test_an_upload_is_answered_with_bars_frames_attention_and_details(
    visit: Callable[..., Any], clips: list[Path], classifier: Classifier
) -> None:
    page = visit()
    page.get_by_text("one of the 7 actions it learned").wait_for()
    page.get_by_text("clap & wave", exact=True).wait_for()
    upload(page, clips[1])
    assert bars_of(page) == bars_for(classifier, clips[1])
    frames = page.get_by_test_id("frames")
    playwright_api.expect(frames.locator("figcaption")).to_have_text(["0.00 s", "0.20 s", "0.40 s", "0.60 s"])
    assert (
        frames.locator("img").evaluate_all(
            "all => Promise.all(all.map(one => one.decode())).then(() => all.map(one => one.naturalWidth))"
        )
        == [16] * 4
    )
    page.get_by_text("view 2", exact=True).click()
    page.get_by_text("0.80 s", exact=True).wait_for()
    page.get_by_text("Show where the model looks").click()
    page.get_by_test_id("attention").wait_for()
    playwright_api.expect(page.get_by_test_id("attention").locator("img")).to_have_count(4)
    page.get_by_text("Technical details").click()
    facts = page.get_by_test_id("facts").inner_text()
    for fact in ("clip1.mp4", "32 × 32 pixels", "1.2 s", "TimeSformer", "best.pyth", "4 frames of 16 × 16", "cpu"):
        assert fact in facts


def choose(box: Any, name: str) -> None:
    """Takes an option of a list, which a part of the page that is drawn late may close again after it was opened."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        box.click()
        try:
            return box.page.get_by_role("option", name=name).click(timeout=3000)
        except playwright_api.TimeoutError:
            continue
    return pytest.fail(f"no option {name}")


def test_an_example_is_answered_and_anew_with_another_sampler_and_more_views(
    visit: Callable[..., Any], clips: list[Path], classifier: Classifier
) -> None:
    expected = bars_for(classifier, clips[0], sampler="segment", views=3)
    assert expected != bars_for(classifier, clips[0])
    page = visit()
    page.get_by_text("Pick an example").click()
    choose(page.get_by_role("combobox").first, "first.mp4")
    assert bars_of(page) == bars_for(classifier, clips[0])
    page.get_by_text("Settings").click()
    page.get_by_role("slider").press("ArrowRight")
    page.get_by_text("view 3", exact=True).wait_for()
    choose(page.get_by_role("combobox").last, "segment")
    playwright_api.expect(page.get_by_test_id("bars").locator(".name, .value")).to_have_text(expected)


def test_files_that_are_no_videos_get_a_sentence_and_the_page_goes_on(
    visit: Callable[..., Any], no_clips: Callable[[str], Path], clips: list[Path], tmp_path: Path
) -> None:
    page = visit()
    hostile = tmp_path / "![x](http:..example.com) <img src=x onerror=alert(1)>.mp4"
    shutil.copy(no_clips("text"), hostile)
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(2**20 + 1))
    alert = page.get_by_test_id("stAlert")
    for path, message in (
        (no_clips("text"), "text.mp4: This file cannot be read"),
        (no_clips("cut"), "cut.mp4: This file cannot be read: cut short"),
        (no_clips("empty"), "empty"),
        (hostile, f"{hostile.name}: This file cannot be read"),
    ):
        upload(page, path)
        playwright_api.expect(alert).to_contain_text(message)
        assert page.get_by_text("Traceback").count() == 0
    upload(page, large)
    page.get_by_text("File must be 1.0MB or smaller").wait_for()
    assert page.get_by_test_id("bars").count() == 0
    upload(page, clips[0])
    bars_of(page)


def test_broken_weights_are_told_and_the_fallback_answers(
    visit: Callable[..., Any], folder: Path, clips: list[Path], checkpoint: Path
) -> None:
    best, fallback = folder / "best.pyth", folder / "fallback.pyth"
    try:
        best.write_bytes(best.read_bytes()[:500])
        page = visit()
        alert = page.get_by_test_id("stAlert")
        playwright_api.expect(alert).to_contain_text("The fine-tuned model cannot be used: best.pyth")
        playwright_api.expect(alert).to_contain_text("fallback.pyth, which know other actions (12)")
        upload(page, clips[0])
        assert bars_of(page)[0].startswith("sport ")
        page.get_by_text("The model is not sure. It knows 12 actions").wait_for()
        fallback.rename(folder / "away.pyth")
        best.unlink()
        page.reload()
        playwright_api.expect(alert).to_contain_text("No model could be loaded")
        playwright_api.expect(alert).to_contain_text("best.pyth")
    finally:
        shutil.copy(checkpoint, best)
    page.reload()
    page.get_by_text("one of the 7 actions it learned").wait_for()


def test_eight_visitors_at_once_each_get_their_own_answer_on_a_phone_too(
    visit: Callable[..., Any], clips: list[Path], classifier: Classifier
) -> None:
    expected = [bars_for(classifier, clip) for clip in clips]
    assert len({tuple(bars) for bars in expected}) == 8
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}
    pages = [visit(**phone), *(visit() for _ in clips[1:])]
    for page, clip in zip(pages, clips, strict=True):
        upload(page, clip)
    assert [bars_of(page) for page in pages] == expected
    assert pages[0].evaluate("document.documentElement.scrollWidth") <= 360
    assert pages[0].get_by_test_id("frames").bounding_box()["width"] <= 360
