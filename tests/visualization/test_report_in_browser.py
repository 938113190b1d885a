"""The report in a browser: tables, the confusion matrix, and no requests to other hosts."""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from timesformer.visualization.report import write_report

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="Playwright or chromium is missing"
    ),
]


@pytest.fixture(scope="module")
def page(make_run: Callable[..., Path]) -> Iterator[Any]:
    """The report of a run of 60 classes, open in a window of 1000 x 1200 pixels."""
    from playwright.sync_api import sync_playwright

    folder = make_run("seen", 60, videos=600)
    path = write_report([folder], folder / "report.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 1200})
        page.set_default_timeout(1000 * PATIENCE)
        messages, requests = [], []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        yield page
        assert messages == []
        assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
        browser.close()


def column(page: Any, number: int) -> list[str]:
    return page.locator(f"#class-table tbody tr:visible td:nth-child({number})").all_inner_texts()


def test_tables_are_sorted_and_filtered(page: Any) -> None:
    heading = page.locator("#class-table th:nth-child(5)")
    heading.locator("button").click()
    sizes = [int(text) for text in column(page, 5)]
    assert sizes == sorted(sizes, reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"
    page.locator("#class-table th:nth-child(2) button").click()
    accuracies = [float(text) for text in column(page, 2)[:-1]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert column(page, 2)[-1].strip() == "–"  # the class without videos stays last
    page.fill("input[data-filters]", "CLASS3")
    assert sorted(column(page, 1)) == sorted(["class3", *(f"class3{digit}" for digit in range(10))])


def test_confusion_matrix_zooms_and_names_cells(page: Any) -> None:
    page.select_option("#order", "labels")
    page.locator("#matrix").scroll_into_view_if_needed()
    page.locator("#zoom-fit").click()
    box = page.locator("#matrix").bounding_box()
    assert page.evaluate("document.getElementById('matrix').scrollWidth") <= box["width"]
    page.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] - 8)
    assert "true class5" in page.inner_text("#tip")
    for _ in range(5):
        page.locator("#zoom-in").click()
    assert page.evaluate("document.getElementById('matrix').scrollWidth") > 1.5 * box["width"]


def test_page_fits_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
