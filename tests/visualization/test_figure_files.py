"""`tools/report.py --figures`: valid files in three formats, and tables with the values of the run."""

import csv
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from tests.visualization.conftest import CallTool, MakeRun
from timesformer.datasets.manifest import Row
from timesformer.preparation.check import Checked
from timesformer.preparation.findings import Findings, write_findings
from timesformer.visualization import run_charts
from timesformer.visualization.charts import new_chart
from timesformer.visualization.examples import Strip, write_strips
from timesformer.visualization.pages.data_page import write_data_page
from timesformer.visualization.pages.page_tables import distinct, file_name

pypdfium2 = pytest.importorskip("pypdfium2")

NAMES = ["walk_fast", "50% & #1", r"{a}~^\b", "run", "stand"]
ESCAPES = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", "--": "–"}


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def expected_confusions(run: Path) -> np.ndarray:
    """Of scikit-learn, from predictions.csv."""
    rows = [row for row in read_csv(run / "predictions.csv")[1:] if row[2]]
    return confusion_matrix([row[1] for row in rows], [row[2] for row in rows], labels=NAMES)


def numbers_in_cells(path: Path) -> np.ndarray:
    """The numbers of a confusion matrix in a PDF, by the class names at their row and column; 0 where there is none."""
    document = pypdfium2.PdfDocument(path)
    page = document[0]
    text_page, rows, columns, numbers = page.get_textpage(), {}, {}, []
    for item in page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_TEXT]):
        left, bottom, right, top = item.get_bounds()
        text = text_page.get_text_bounded(left - 0.5, bottom - 0.5, right + 0.5, top + 0.5).strip()
        center = ((left + right) / 2, (bottom + top) / 2)
        if text.isdigit():
            numbers.append((int(text), *center))
        elif right - left > top - bottom:
            rows[text] = center[1]
        else:
            columns["".join(text.split("\r\n"))] = center[0]
    assert [*filter(rows.get, NAMES)] == NAMES
    found = np.zeros((len(NAMES),) * 2, int)
    along_y, along_x = np.array([rows[name] for name in NAMES]), np.array(sorted(columns.values())[1 : 1 + len(NAMES)])
    for number, x, y in numbers:
        found[np.abs(along_y - y).argmin(), np.abs(along_x - x).argmin()] = number
    return found


@pytest.mark.slow
def test_figures_of_a_run(
    make_run: MakeRun, call_tool: CallTool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, target = make_run("figures", NAMES, videos=80, unreadable=2), tmp_path / "paper" / "figures"
    file = io.BytesIO()
    Image.new("RGB", (90, 20), "red").save(file, "JPEG")
    strip = Strip(file.getvalue(), 4, [0, 1, 2, 3], [0.0, 0.1, 0.2, 0.3])
    write_strips(run / "report_frames.zip", {f"v{number:03}": strip for number in range(80)})
    Image.new("RGBA", (60, 40), "blue").save(run / "attention.png")
    (run / "broken.png").write_bytes(b"not a picture")
    charts = {section: [*draw] for section, draw in run_charts._CHARTS.items()}
    monkeypatch.setattr(run_charts, "_CHARTS", charts)
    run_charts.report_chart("training")(lambda run: new_chart("A chart of a user (%)")[0])
    assert call_tool(run, "--figures", target) == 0

    names = {path.stem for path in target.glob("*.pdf")}
    assert names >= {"training_loss", "training_accuracy", "training_a_chart_of_a_user"}
    assert names >= {"confusion_matrix", "top_1_by_class", "correct_examples", "incorrect_examples", "attention"}
    assert "broken" not in names
    for name in names:
        with Image.open(target / f"{name}.png") as image:
            assert image.width >= 3.5 * 300
            assert len(image.convert("RGB").getcolors(1 << 24)) > 1
        svg = ElementTree.parse(target / f"{name}.svg").getroot()
        assert svg.tag == "{http://www.w3.org/2000/svg}svg"
        assert not [*svg.iter("{http://www.w3.org/2000/svg}text")], "text of a font that may be missing elsewhere"
        content = (target / f"{name}.pdf").read_bytes()
        assert len(pypdfium2.PdfDocument(content)) == 1
        assert content.count(b"/FontFile2") == content.count(b"/Type /FontDescriptor"), "a font is not embedded"
    page = pypdfium2.PdfDocument(target / "training_loss.pdf")[0]
    text, raw = page.get_textpage(), pypdfium2.raw
    drawn = [number for number in range(text.count_chars()) if not raw.FPDFText_IsGenerated(text, number)]
    assert page.get_width() == pytest.approx(3.5 * 72)  # points
    assert pypdfium2.PdfDocument(target / "top_1_by_class.pdf")[0].get_width() == pytest.approx(3.5 * 72)
    assert min(raw.FPDFText_GetFontSize(text, number) for number in drawn) >= 7

    examples = pypdfium2.PdfDocument(target / "incorrect_examples.pdf")[0].get_textpage().get_text_range()
    wrong = [row for row in read_csv(run / "predictions.csv")[1:] if row[2] not in ("", row[1])]
    row = max(wrong, key=lambda row: float(row[3]))
    assert f"{row[0]}: true {row[1]}, predicted {row[2]} ({100 * float(row[3]):.0f}\N{NO-BREAK SPACE}%)" in examples

    expected = expected_confusions(run)
    assert expected.sum() == 78
    np.testing.assert_array_equal(numbers_in_cells(target / "confusion_matrix.pdf"), expected)
    header, *rows = read_csv(target / "confusion_matrix.csv")
    assert header[1:] == [row[0] for row in rows] == NAMES
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], int), expected)
    links = set(re.findall(r'href="([^"#]*)"', (target / "index.html").read_text()))
    assert links == {path.name for path in target.iterdir()} - {"index.html"}


@pytest.mark.slow
def test_figures_of_a_data_report(call_tool: CallTool, tmp_path: Path) -> None:
    root, target = tmp_path / "clips", tmp_path / "figures"
    root.mkdir()
    rows = [Row(f"{label}/{n}.mp4", label, 20 + n, 10.0, 64, 48, 2 + n / 10) for label in "ab" for n in range(3)]
    rows.append(Row("b/torn.mp4", "b", problem="torn"))
    findings = Findings(root, "folder", [Checked(row, None) for row in rows], threshold=None)
    write_findings(findings, root)
    assert call_tool(root, "--figures", target) == 2  # without the page
    write_data_page(findings, root, workers=1)
    assert call_tool(root, "--figures", target) == 0
    header, *classes = read_csv(target / "classes.csv")
    found = {row[0]: dict(zip(header, row, strict=True)) for row in classes}
    for label in "ab":
        frames, seconds = zip(*((row.frames, row.seconds) for row in rows if row.label == label), strict=True)
        assert int(found[label]["clips"]) == len(frames)
        assert int(found[label]["frames"]) == sum(frames)
        assert float(found[label]["seconds"]) == pytest.approx(sum(seconds), abs=0.0006)  # saved with 3 decimals
    pictures = {path.stem for path in target.glob("*.pdf")}
    assert pictures == {"clips_by_class", "seconds_by_class", "frames_by_class", "frame_sizes"}
    (root / "data_report.json").write_text("{}")
    assert call_tool(root, "--figures", target) == 2


def plain(latex: str) -> str:
    """The text of a cell in LaTeX."""
    pattern = "|".join(map(re.escape, ESCAPES)) + r"|\\([&%$#_{}])|\\textbf\{(.*)\}"
    return re.sub(pattern, lambda found: ESCAPES.get(found[0]) or found[1] or found[2] or "", latex.strip())


def shows(text: str, value: str) -> bool:
    """Whether a text is this value, rounded to its decimals if it is a number."""
    text = text.removesuffix(" %")
    if value == "":
        return text in ("", "–")
    try:
        number = float(value)
    except ValueError:
        return text == value
    return abs(float(text) - number) <= 0.5 * 10 ** -len(text.partition(".")[2]) + 1e-9


@pytest.mark.slow
def test_latex_has_the_rows_of_the_csv(make_run: MakeRun, call_tool: CallTool, tmp_path: Path) -> None:
    assert call_tool(make_run("latex", NAMES, videos=300, unreadable=50), "--figures", tmp_path) == 0
    for name in ("classes", "most_confused", "confusion_matrix", "epochs", "results", "unreadable_clips"):
        expected, source = read_csv(tmp_path / f"{name}.csv"), (tmp_path / f"{name}.tex").read_text()
        lines = re.findall(r"^(.*?) \\\\$", source, re.MULTILINE)
        rows = [[plain(cell) for cell in re.split(r"(?<!\\)&", line)] for line in lines if "&" in line]
        is_long = r"\begin{longtable}" in source
        assert is_long == (len(expected) > 46)
        rows = rows[is_long:]  # the header of the first page, and of the others
        assert len(rows) == len(expected)
        for row, values in zip(rows, expected, strict=True):
            assert len(row) == len(values)
            assert all(map(shows, row, values)), (row, values)


@pytest.mark.slow
def test_figures_of_a_comparison(make_run: MakeRun, call_tool: CallTool, tmp_path: Path) -> None:
    runs, target = [make_run(name, 3, seed=seed) for seed, name in enumerate(("one", "other"))], tmp_path / "figures"
    target.mkdir()
    assert call_tool(*runs, "--figures", target) == 0
    assert [row[0] for row in read_csv(target / "results.csv")] == ["run", "one", "other"]
    names = {path.stem for path in target.glob("*.pdf")}
    assert names >= {"comparison_test_top_1", "comparison_validation_loss", "comparison_training_loss"}
    before = (target / "results.csv").read_text()
    assert call_tool(*runs, "--figures", target) == 0
    assert call_tool(runs[0], "--figures", target) == 2  # of other runs
    assert (target / "results.csv").read_text() == before
    assert call_tool(runs[0], "--figures", target, "--overwrite") == 0
    assert read_csv(target / "results.csv")[0] == ["metric", "value"]


def test_other_files_are_not_replaced(make_run: MakeRun, call_tool: CallTool, tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("mine")
    assert call_tool(make_run("refused", 3), "--figures", tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_names_of_files() -> None:
    assert file_name("Waiting for data (% of the time)") == "waiting_for_data"
    assert file_name("(%)") == "untitled"
    assert distinct(["a", "a", "a_2", "b"]) == ["a", "a_2", "a_2_2", "b"]
