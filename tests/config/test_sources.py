"""Names of checkpoints: which make sense, and what is said of those that do not."""

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
def test_a_sound_name_has_no_problem(source: str) -> None:
    assert source_problem(source) == ""


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("http://host.example/model.pyth", "expected an https:// URL"),
        ("ftp://host.example/model.pyth", "expected an https:// URL"),
        ("https:///model.pyth", "expected an https:// URL"),
        ("https://host.example/m#sha256=12", "expected 64 hexadecimal digits after sha256=, found 2 characters"),
        ("https://host.example/m#size=big", "expected a number of bytes after size=, found 'big'"),
        (
            "https://host.example/m#crc=12",
            "expected #sha256=<hex>, #md5=<hex> or #size=<bytes> after",
        ),
        ("zoo:TimeSformer_divST_8x32_K400", "the nearest is TimeSformer_divST_8x32_224_K400"),
        ("hf:vivit", "expected hf:owner/name"),
        ("timm:vit_base_patch16_224", "expected timm:model.tag"),
        ("no/such/file.pyth", "expected a checkpoint file that exists"),
    ],
)
def test_a_name_that_makes_no_sense_is_told_what_was_expected(source: str, problem: str) -> None:
    assert problem in source_problem(source)


def test_the_zoo_is_the_published_one(shared: Path) -> None:
    with (shared / "published/zoo.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(ZOO) == [row["name"] for row in rows]
    for row in rows:
        model = ZOO[row["name"]]
        found = (model.dataset, model.frames, model.sampling_rate, model.crop, model.top1, model.top5, model.url)
        rate, top5 = row["sampling_rate"], row["top5"]
        expected = (row["dataset"], int(row["frames"]), int(rate) if rate else None, int(row["crop"]))
        assert found == (*expected, float(row["top1"]), float(top5) if top5 else None, row["url"])


def test_the_page_lists_the_zoo() -> None:
    page = (Path(__file__).parents[2] / "docs/checkpoints.md").read_text()
    for name, model in ZOO.items():
        line = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert f" {model.crop} | {model.top1} | {model.top5 or ''} |" in line
