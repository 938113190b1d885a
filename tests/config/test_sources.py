"""Names of checkpoints: valid and invalid ones."""

import csv
from pathlib import Path

import pytest

from timesformer.config.sources import ZOO, source_problem

SHA256 = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "source",
    [
        "https://host.example/model.pyth?dl=1",
        f"https://host.example/model.pyth#sha256={SHA256}",
        f"https://host.example/model.pyth#size=120&sha256={SHA256.upper()}",
        "http://localhost:8000/model.pyth",
        "http://[::1]/model.pyth",
        "zoo:TimeSformer_divST_8x32_224_K400",
        "hf:google/vivit-b-16x2-kinetics400",
        "hf:owner/name@main",
        "timm:vit_base_patch16_224.augreg_in21k",
        __file__,
        str(Path(__file__).parent),
    ],
)
def test_valid_name(source: str) -> None:
    assert source_problem(source) == ""


def test_folder_with_the_name_of_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf").mkdir()
    assert source_problem("hf") == ""


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("http://host.example/model.pyth", "https://"),
        ("ftp://host.example/model.pyth", "https://"),
        ("https:///model.pyth", "https://"),
        ("https://host.example/m#sha256=12", "sha256="),
        ("https://host.example/m#size=big", "size="),
        ("https://host.example/m#crc=12", "#sha256="),
        ("zoo:TimeSformer_divST_8x32_K400", "TimeSformer_divST_8x32_224_K400"),
        ("hf:vivit", "hf:owner/name"),
        ("timm:vit_base_patch16_224", "timm:model.tag"),
        ("no/such/file.pyth", "zoo:"),
    ],
)
def test_invalid_name(source: str, hint: str) -> None:
    assert hint in source_problem(source)


def test_zoo_is_as_published(shared: Path) -> None:
    with (shared / "published/zoo.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [name for name, model in ZOO.items() if model.model == "TimeSformer"] == [row["name"] for row in rows]
    for row in rows:
        model = ZOO[row["name"]]
        found = (model.dataset, model.frames, model.sampling_rate, model.crop, model.top1, model.top5, model.url)
        rate, top5 = row["sampling_rate"], row["top5"]
        expected = (row["dataset"], int(row["frames"]), int(rate) if rate else None, int(row["crop"]))
        assert found == (*expected, float(row["top1"]), float(top5) if top5 else None, row["url"])


def test_page_lists_the_zoo() -> None:
    page = (Path(__file__).parents[2] / "docs/checkpoints.md").read_text()
    for name, model in ZOO.items():
        line = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert f" {model.crop} | {model.top1} | {model.top5 or ''} |" in line
