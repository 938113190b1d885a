"""The report in a browser: tables, the confusion matrix, and no requests to other hosts."""

import importlib.util
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.patience import PATIENCE
from timesformer.studies.tables import Section
from timesformer.visualization.pages.page import render_page
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
    page.locator("#zoom-fit").click()
    page.locator("#matrix").scroll_into_view_if_needed()
    box = page.locator("#matrix").bounding_box()
    assert page.evaluate("document.getElementById('matrix').scrollWidth") <= box["width"]
    page.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] - 8)
    assert "true class5" in page.inner_text("#tip")
    for _ in range(5):
        page.locator("#zoom-in").click()
    assert page.evaluate("document.getElementById('matrix').scrollWidth") > 1.5 * box["width"]


def test_cells_show_counts_or_percent(page: Any) -> None:
    page.locator("#zoom-fit").click()
    for _ in range(4):
        page.locator("#zoom-in").click()
    page.evaluate("document.getElementById('matrix').scrollTo(0, 0)")
    matrix, pictures = page.locator("#matrix"), []
    for unit in ("counts", "percent", "counts"):
        page.select_option("#unit", unit)
        pictures.append(matrix.screenshot())
    assert pictures[0] == pictures[2] != pictures[1]


@pytest.fixture(scope="module")
def pages(page: Any, make_run: Callable[..., Path]) -> dict[int, Path]:
    """Reports of runs by their number of classes."""
    folders = {classes: make_run(f"of{classes}", classes, videos=10 * classes) for classes in (25, 51, 101, 400)}
    return {classes: write_report([folder], folder / "report.html") for classes, folder in folders.items()}


def new_page(page: Any) -> Any:
    """Another page of the browser."""
    other = page.context.browser.new_page()
    other.set_default_timeout(1000 * PATIENCE)
    return other


def test_confusion_matrix_and_charts_are_complete_at_any_size(page: Any, pages: dict[int, Path]) -> None:
    other = new_page(page)
    for classes, path in pages.items():
        other.goto(path.as_uri())
        other.select_option("#order", "labels")
        for width in (400, 800, 1400):
            other.set_viewport_size({"width": width, "height": 500})
            other.evaluate(DRAWN)  # the matrix is drawn again a little later
            assert all(other.evaluate(COMPLETE)), (classes, width)
            # The last row and column are drawn: a cell of the diagonal with the color of correct predictions.
            assert other.evaluate(LAST_CELL_IS_BLUE), (classes, width)
            assert other.evaluate(CHARTS_OF_A_SECTION_ARE_ALIKE), (classes, width)
    other.close()


COMPLETE = """() => {
  const box = document.getElementById("matrix"), canvas = box.querySelector("canvas");
  const inner = box.getBoundingClientRect(), drawn = canvas.getBoundingClientRect();
  return [box.scrollWidth <= box.clientWidth, box.scrollHeight <= box.clientHeight,
    drawn.right <= inner.right && drawn.bottom <= inner.bottom, inner.right <= document.documentElement.clientWidth];
}"""
# Waits for at most 600 frames; `wait_for_function` polls by `eval`, which the page forbids.
DRAWN = f"""async () => {{
  for (let frame = 0; frame < 600 && !({COMPLETE})().every(Boolean); frame++)
    await new Promise(requestAnimationFrame);
}}"""
# The last class has no videos, so the cell is the one before.
LAST_CELL_IS_BLUE = """() => {
  const canvas = document.querySelector("#matrix canvas"), paint = canvas.getContext("2d");
  const size = JSON.parse(document.getElementById("matrix-data").textContent).names.length;
  const side = Math.min(canvas.width, canvas.height), strip = Math.ceil(side / size * 2) + 4;
  const { data } = paint.getImageData(side - strip, side - strip, strip, strip);
  for (let at = 0; at < data.length; at += 4) if (data[at + 2] > data[at] + 60) return true;
  return false;
}"""
# They have one size, and their rows are in the middle; all rows but the last have the same number of charts.
CHARTS_OF_A_SECTION_ARE_ALIKE = """() => [...document.querySelectorAll(".charts")].every(charts => {
  const rows = {}, whole = charts.getBoundingClientRect();
  for (const item of charts.children) {
    const box = item.getBoundingClientRect(), row = (rows[Math.round(box.top)] ||= []);
    row.push(box);
  }
  const found = Object.values(rows), first = found[0], widths = found.flat().map(box => box.width);
  return Math.max(...widths) - Math.min(...widths) < 1 && Math.max(...widths) <= 450
    && found.every((row, at) => {
      const gaps = [row[0].left - whole.left, whole.right - row[row.length - 1].right];
      return Math.min(...gaps) > -1 && Math.abs(gaps[0] - gaps[1]) < 2
        && (at === found.length - 1 || row.length === first.length);
    });
})"""


def test_printed_pages_are_complete(page: Any, pages: dict[int, Path], tmp_path: Path) -> None:
    pypdfium2 = pytest.importorskip("pypdfium2")
    other = new_page(page)
    for paper, window, classes in (("A4", 800, 51), ("Letter", 1400, 51), ("A4", 1400, 400)):
        other.set_viewport_size({"width": window, "height": 900})
        other.goto(pages[classes].as_uri())
        other.pdf(path=tmp_path / "page.pdf", format=paper)
        document = pypdfium2.PdfDocument(tmp_path / "page.pdf")
        words = []
        for sheet in document:
            text, (width, height) = sheet.get_textpage(), sheet.get_size()
            words += text.get_text_range().split()
            boxes = np.array([text.get_charbox(number) for number in range(text.count_chars())])
            # The matrix is printed as text, too. The margin is 12 mm, or 34 points.
            assert boxes.min() > 20
            assert boxes[:, 2].max() < width - 20
            assert boxes[:, 3].max() < height - 20
        shown = Counter(word for word in words if word.startswith("class"))
        assert min(shown[f"class{number}"] for number in range(classes)) >= 2  # a row of the matrix and of the table
        assert not {"Click", "Point", "SOLVER.BASE_LR"} & {*words}  # hints, and a folded option
        document.close()
    other.close()


def test_printed_comparison_has_all_columns(page: Any, make_run: Callable[..., Path], tmp_path: Path) -> None:
    pypdfium2 = pytest.importorskip("pypdfium2")
    runs = [make_run(f"fold_{fold}_seed_1", 4, seed=fold, options={"DATA.FOLD": fold}) for fold in range(1, 16)]
    other = new_page(page)
    other.goto(write_report(runs, tmp_path / "comparison.html").as_uri())
    for paper in ("A4", "Letter"):
        other.pdf(path=tmp_path / "page.pdf", format=paper)
        document = pypdfium2.PdfDocument(tmp_path / "page.pdf")
        words = [word for sheet in document for word in sheet.get_textpage().get_text_range().split()]
        document.close()
        assert "range" in words  # the last heading of the classes
        options = words[words.index("differ") :]
        assert options[options.index("2") :][:14] == [str(fold) for fold in range(2, 16)]
    other.close()


def test_printed_study_has_whole_words(page: Any, tmp_path: Path) -> None:
    pypdfium2 = pytest.importorskip("pypdfium2")
    header = ["", "batch", "optimizer", "schedule", "from", "in the report", "validation", "published top-1"]
    header += ["published top-5", "our top-1", "our top-5", "runs", "time", "memory (MiB)"]
    row = ["batch 8, Adam, 0.000004", "8", "adam", "steps_with_relative_lrs", "event file", "batch 4, 0.0001: 89.6"]
    row += ["80.4", "86.4", "96.0", "42.5 ± 10.1", "90.0 ± 0.0", "3", "1:01:00", "11444"]
    section = Section("1. tuning", header=header, rows=[row] * 3, remark="without a model")
    content = {"title": "Study", "paragraphs": [], "parts": [section]}
    (tmp_path / "study.html").write_text(render_page("study.html", **content))
    other = new_page(page)
    other.goto((tmp_path / "study.html").as_uri())
    for paper in ("A4", "Letter"):
        other.pdf(path=tmp_path / "page.pdf", format=paper)
        document = pypdfium2.PdfDocument(tmp_path / "page.pdf")
        words = document[0].get_textpage().get_text_range().split()
        document.close()
        whole = [word for cell in (*row, section.remark) for word in cell.split()]
        assert not Counter(whole) - Counter(words)
    other.close()


def test_page_fits_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
