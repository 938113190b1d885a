"""Sections of the report about single clips: their numbers, and the map in a browser."""

import importlib.util
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

from tests.patience import PATIENCE
from timesformer.analysis.analysis_folder import begin_analysis
from timesformer.analysis.clip_properties import ClipProperties, write_properties
from timesformer.analysis.embedding import Embedding, write_embedding
from timesformer.analysis.revealed_frames import RevealedClip, write_revealed
from timesformer.visualization.charts import collect_figures
from timesformer.visualization.report import render_report, write_report
from timesformer.visualization.run_files import read_run
from timesformer.visualization.sections.analysis import analysis_sections
from timesformer.visualization.sections.attention import weakest_classes
from timesformer.visualization.sections.embedding import draw_map
from timesformer.visualization.sections.properties import accuracy_by_bin
from timesformer.visualization.sections.revealed import revealed_examples

CHROMIUM = shutil.which("chromium")


def analysis_of(folder: Path) -> Path:
    return begin_analysis(folder, json.loads((folder / "results.json").read_text()))


def test_accuracy_by_bin_as_pandas() -> None:
    random = np.random.default_rng(0)
    values, correct = random.normal(size=100), random.random(100) < 0.7
    bins = accuracy_by_bin(np.append(values, np.nan), np.append(correct, True))
    groups = pandas.DataFrame({"value": values, "correct": correct}).groupby(pandas.qcut(values, 5), observed=True)
    assert [found.videos for found in bins] == groups.size().tolist() == [20] * 5
    assert [found.top1 for found in bins] == pytest.approx((100 * groups["correct"].mean()).tolist())
    assert [found.low for found in bins] == groups["value"].min().tolist()
    assert [found.high for found in bins] == groups["value"].max().tolist()
    for found in bins:  # Wilson's score interval
        p, n, z = found.correct / found.videos, found.videos, 1.959964
        middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        expected = [100 * (middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
        assert found.interval == pytest.approx(expected, abs=1e-4)


def test_equal_values_are_in_one_bin() -> None:
    values = np.array([8, 8, 8, 8, 8, 8, 8, 9, 20, 30])
    bins = accuracy_by_bin(values, values < 10)
    assert sum(found.videos for found in bins) == 10
    assert (bins[0].low, bins[0].high, bins[0].videos, bins[0].top1) == (8, 8, 7, 100)
    assert [found.low for found in bins] == sorted(found.low for found in bins)
    assert len(accuracy_by_bin(np.full(4, 20), np.ones(4, bool))) == 1
    assert accuracy_by_bin(np.full(4, np.nan), np.ones(4, bool)) == []


def test_properties_are_those_of_predicted_videos(make_run: Callable[..., Path]) -> None:
    folder = make_run("properties", 4, videos=40)
    run = read_run(folder)
    brightness = np.random.default_rng(1).uniform(0, 255, 40)
    rows = {
        video: ClipProperties(20, math.nan, value, 3)
        for video, value in zip(run.predictions.videos, brightness, strict=True)
    }
    write_properties(analysis_of(folder), rows)
    content = analysis_sections(run)["properties"]
    assert (content["videos"], len(content["charts"]), len(content["constant"])) == (40, 1, 2)
    expected = pandas.Series(run.predictions.correct).groupby(pandas.qcut(brightness, 5), observed=True).mean()
    assert [row[3] for row in content["rows"]] == pytest.approx((100 * expected).tolist())


def test_examples(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run("examples", 5, videos=60))
    predictions = run.predictions
    weak = weakest_classes(run)
    per_class = [row["top1"] for row in run.results["per_class"] if row["num_videos"]]
    accuracies = [run.results["per_class"][found.label]["top1"] for found in weak]
    assert accuracies == sorted(per_class)[:3]
    for found in weak:
        assert (predictions.labels[[*found.incorrect, *found.correct]] == found.label).all()
        assert not predictions.correct[found.incorrect].any()
        assert predictions.correct[found.correct].all()
    shown = revealed_examples(predictions)
    assert (len(shown), predictions.correct[shown].tolist()) == (8, [False] * 4 + [True] * 4)


@pytest.mark.slow
def test_figures_of_single_clips(make_run: Callable[..., Path]) -> None:
    folder = make_run("single", 3, videos=60)
    analysis, run = analysis_of(folder), read_run(folder)
    points = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    videos = run.predictions.videos[:50]
    write_embedding(analysis, Embedding(videos, np.ones((50, 4)), points, 60, b""))
    write_revealed(analysis, [RevealedClip(video, [0.1, 0.8], [0.4, 0.8], [0, 1]) for video in videos[:3]])
    figure = draw_map(run)
    drawn = [marks.get_offsets() for marks in figure.axes[0].collections]
    found = np.concatenate(drawn) * np.ptp(points, axis=0).max()  # the map is one unit wide or high
    order, expected = np.argsort(found[:, 0]), np.argsort(points[:, 0])
    moved = found[order] - points[expected]
    assert np.abs(moved - moved[0]).max() < 50 * np.finfo(np.float32).eps
    errors = sum(len(marks) for marks in drawn[1::3])
    assert (sum(map(len, drawn)), errors) == (50, int((~run.predictions.correct[:50]).sum()))
    with collect_figures() as charts:
        render_report([run])
    titles = [axes.get_title("left") for chart in charts for axes in chart.axes]
    assert sum(title.startswith("Frames revealed") for title in titles) == 3
    assert all(titles), "files of --figures are named after titles"


@pytest.mark.slow
@pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="Playwright or chromium is missing"
)
def test_map_in_a_browser(make_run: Callable[..., Path]) -> None:
    from playwright.sync_api import sync_playwright

    folder = make_run("map", 12, videos=90)
    predictions = read_run(folder).predictions
    sheet = io.BytesIO()
    Image.new("RGB", (20 * 64, 5 * 64), (10, 120, 30)).save(sheet, "JPEG")
    points = np.random.default_rng(0).normal(size=(90, 2)).astype(np.float32)
    write_embedding(
        analysis_of(folder), Embedding(predictions.videos, np.ones((90, 4)), points, 1000, sheet.getvalue())
    )
    path = write_report([folder], folder / "report.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 900}, has_touch=True)
        page.set_default_timeout(1000 * PATIENCE)
        messages: list[str] = []
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(path.as_uri())
        page.locator("#map").scroll_into_view_if_needed()
        assert "90 of 1,000" in page.inner_text("#embedding")
        errors = int((~predictions.correct).sum())
        assert (page.locator("#map path").count(), page.locator("#map circle").count()) == (errors, 90 - errors)
        leftmost = int(points[:, 0].argmin())
        x = page.evaluate(
            "Math.min(...[...document.querySelectorAll('#map svg > *')].map(m => m.getBoundingClientRect().x))"
        )
        mark = page.evaluate_handle(
            f"[...document.querySelectorAll('#map svg > *')].find(m => m.getBoundingClientRect().x === {x})"
        ).bounding_box()
        center = (mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2)
        page.mouse.move(*center)
        assert page.inner_text("#tip").splitlines()[0] == predictions.videos[leftmost]
        assert 'url("data:image/jpeg' in page.locator("#tip div").first.evaluate(
            "e => getComputedStyle(e).backgroundImage"
        )
        page.mouse.move(5, 5)
        assert not page.is_visible("#tip")
        page.touchscreen.tap(*center)
        assert predictions.videos[leftmost] in page.inner_text("#tip")
        page.check("#map-errors")
        page.focus("#map")
        seen = set()
        for _ in range(errors + 1):
            page.keyboard.press("ArrowRight")
            seen.add(page.inner_text("#map-text").split(";")[0])
        assert seen == {predictions.videos[number] for number in np.flatnonzero(~predictions.correct)}
        page.set_viewport_size({"width": 360, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert messages == []
        browser.close()
