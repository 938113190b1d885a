"""The page about long videos in a browser."""

import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.datasets.made_videos import encode, ffmpeg
from tests.patience import PATIENCE, wait_until
from timesformer.localization.segments import Segment
from timesformer.localization.windows import WindowScores
from timesformer.visualization.pages import timeline_page
from timesformer.visualization.pages.timeline_page import VideoTimeline, write_timeline_page
from timesformer.visualization.thumbnails import read_thumbnails

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="Playwright or chromium is missing"
    ),
]

NAMES = ("red", "green & <b>", "blue")
RATE = 10


def colored_frames() -> list[np.ndarray]:
    """Two seconds of red, then of green, then of blue."""
    return [np.roll((220, 20, 20), second // 2)[None, None].repeat(48, 0).repeat(64, 1) for second in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """embedded.html, moved.html and other.html, about the same video: within the page, next to it, and as MPEG-4."""
    folder = tmp_path_factory.mktemp("timeline")
    frames = [frame.astype(np.uint8) for frame in colored_frames() for _ in range(RATE)]
    video = encode(folder / "a b#1.mp4", frames, "libx264", rate=RATE)
    ffmpeg("-i", video, "-c:v", "mpeg4", folder / "old.avi")
    scores = np.eye(3, dtype=np.float32).repeat(2, 0) * 0.85 + 0.05
    windows = [WindowScores(second, second + 1.0, row) for second, row in enumerate(scores)]
    segments = [Segment(2.001 * number, 2.001 * number + 2.001, name, 0.9) for number, name in enumerate(NAMES)]

    def write(name: str, path: Path) -> None:
        timeline = VideoTimeline(str(path), windows, segments, read_thumbnails(path, number=6))
        write_timeline_page(folder / name, [timeline], NAMES)

    write("embedded.html", video)
    write("other.html", folder / "old.avi")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeline_page, "_MAX_EMBEDDED", 0)
        write("linked.html", video)
    return folder


@pytest.fixture
def page(folder: Path) -> Iterator[Any]:
    """A window of 1000 x 900 pixels. No page may load anything but videos next to it, or report problems."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        page.set_default_timeout(1000 * PATIENCE)
        messages, requests = [], []
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        yield page
        assert messages == []
        assert all(url.startswith(("data:", folder.as_uri())) for url in requests)
        browser.close()


# The color of the frame that the player shows, once it has arrived there.
SHOWN = """async () => {
  const video = document.querySelector("video"), canvas = document.createElement("canvas");
  while (video.seeking || video.readyState < 2) await new Promise(requestAnimationFrame);
  canvas.getContext("2d").drawImage(video, 0, 0);
  const color = [...canvas.getContext("2d").getImageData(32, 24, 1, 1).data].slice(0, 3);
  return ["red", "green", "blue"][color.indexOf(Math.max(...color))] + " " + video.currentTime.toFixed(1);
}"""


def wait_until_shown(page: Any, expected: str) -> None:
    """Waits for a color and a time: just after a seek, the player may still draw the frame before."""
    wait_until(lambda: page.evaluate(SHOWN) == expected, lambda: page.evaluate(SHOWN))


def test_clicks_seek(page: Any, folder: Path) -> None:
    page.goto((folder / "embedded.html").as_uri())
    wait_until_shown(page, "red 0.0")
    page.locator(".segments button").nth(2).click()
    wait_until_shown(page, "blue 4.0")
    assert page.inner_text(".now") == "blue 0:04.0"
    page.locator("tbody tr").nth(1).click()
    wait_until_shown(page, "green 2.0")
    assert page.inner_text(".now") == "green & <b> 0:02.0"  # players round 2.001 seconds down
    thumbnail = page.locator(".thumbnails button").nth(3)
    thumbnail.click()
    wait_until_shown(page, "green 3.5")  # the middle of the fourth of six parts
    box = page.locator(".curves").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.95, box["y"] + 30)
    wait_until_shown(page, "blue 5.7")
    cursor = page.locator(".cursor").bounding_box()
    assert cursor["x"] + cursor["width"] / 2 == pytest.approx(box["x"] + box["width"] * 0.95, abs=1)
    page.locator("tbody button").first.click()
    wait_until_shown(page, "red 0.0")
    page.locator("video").evaluate("video => { video.currentTime = 2.5; }")
    page.locator(".now", has_text=re.compile("^green & <b>")).wait_for()


def test_video_next_to_the_page_may_move(page: Any, folder: Path) -> None:
    page.goto((folder / "linked.html").as_uri())
    page.locator(".segments button").nth(2).click()
    seek = "done => {video.onseeked = () => done(video.currentTime); video.seeking || video.onseeked()}"
    assert page.locator("video").evaluate(f"video => new Promise({seek})") == 4.002
    (folder / "a b#1.mp4").rename(folder / "away.mp4")
    page.reload()
    page.locator("p.problem").wait_for()
    (folder / "away.mp4").rename(folder / "a b#1.mp4")
    page.locator(".segments button").nth(1).click()
    assert page.locator(".still").get_attribute("src") == page.locator(".thumbnails img").nth(2).get_attribute("src")


def test_page_of_a_video_without_player_fits_a_phone(page: Any, folder: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    page.goto((folder / "other.html").as_uri())
    assert page.locator("video").count() == 0
    page.locator(".segments button").nth(2).click()
    assert page.locator(".still").get_attribute("src") == page.locator(".thumbnails img").nth(4).get_attribute("src")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.set_viewport_size({"width": 400, "height": 700})
    table = "document.querySelector('.scroll')"
    assert page.evaluate(f"{table}.scrollWidth - {table}.clientWidth") == 0
    assert page.locator("h1").bounding_box()["x"] == page.locator("nav a").first.bounding_box()["x"]
    assert page.locator(".plot span").all_inner_texts() == ["100 %", "50 %", "0 %"]
    labels = page.locator(".segments span")
    assert labels.first.is_visible()
    page.set_viewport_size({"width": 150, "height": 700})
    assert not labels.first.is_visible()  # no room for more than a letter
    page.emulate_media(media="print")
    assert not page.locator(".stage").is_visible()
    assert page.locator(".segments").is_visible()


def test_printed_tables_have_their_header_on_every_page(page: Any, folder: Path) -> None:
    pdfium = pytest.importorskip("pypdfium2", reason="pypdfium2 reads the printed pages")
    windows = [WindowScores(second, second + 1.0, np.array([0.9, 0.05, 0.05], np.float32)) for second in range(120)]
    segments = [Segment(second, second + 1.0, NAMES[second % 3], 0.9) for second in range(120)]
    write_timeline_page(folder / "long.html", [VideoTimeline(str(folder / "gone.mp4"), windows, segments)], NAMES)
    page.goto((folder / "long.html").as_uri())
    printed = pdfium.PdfDocument(page.pdf(format="A4"))
    texts = ["".join(sheet.get_textpage().get_text_range().split()) for sheet in printed]
    assert len(texts) > 2
    assert ["probability(%)" in text for text in texts] == [True] * len(texts)
