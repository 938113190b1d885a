"""Shipped configurations are found by name, and `timesformer configs` lists them with their size and cost."""

import csv
from pathlib import Path

import pytest

from timesformer.benchmarks.config_costs import COLUMNS, describe_cost
from timesformer.commands import configs
from timesformer.config import ConfigError, load_config
from timesformer.config.shipped import COSTS, shipped_folder, shipped_names

NAME = "Demo/TimeSformer_divST_8x2_48"


@pytest.mark.parametrize("name", [NAME, f"{NAME}.yaml", f"configs/{NAME}.yaml"])
def test_a_shipped_configuration_is_found_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(name, check_values=False).TIMESFORMER.EMBED_DIM == 96
    own = tmp_path / name
    own.parent.mkdir(parents=True)
    own.write_text("TIMESFORMER: {EMBED_DIM: 48}\n")
    assert load_config(name, check_values=False).TIMESFORMER.EMBED_DIM == 48


def test_a_configuration_may_name_a_shipped_one_as_its_base(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {NAME}\nRNG_SEED: 7\n")
    cfg = load_config(tmp_path / "mine.yaml", check_values=False)
    assert (cfg.TIMESFORMER.EMBED_DIM, cfg.RNG_SEED) == (96, 7)


@pytest.mark.parametrize(
    "name", ["TimeSformer_divST_8x2_48", "Demo/TimeSformer_divST_8x2", "demo/timesformer_divst_8x2_48"]
)
def test_the_nearest_name_is_in_the_error(name: str) -> None:
    with pytest.raises(ConfigError, match=NAME):
        load_config(name)


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, str]]:
    with (shipped_folder() / COSTS).open(newline="") as file:
        return {row["configuration"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_costs_are_those_of_the_configurations(rows: dict[str, dict[str, str]]) -> None:
    """Multiply-adds, whose count takes seconds, are counted for the smallest model of each kind."""
    assert list(rows) == shipped_names()
    kinds: dict[tuple[str, str], str] = {}
    for name in sorted(rows, key=lambda name: int(rows[name]["multiply_adds"])):
        kinds.setdefault((rows[name]["model"], rows[name]["attention"]), name)
    for name, row in rows.items():
        counted = name in kinds.values()
        expected = describe_cost(name, with_operations=counted)
        columns = COLUMNS if counted else COLUMNS[:-1]
        assert {column: row[column] for column in columns} == {column: expected[column] for column in columns}


def test_the_list_is_filtered_by_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert configs.main([]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(shipped_names()) + 1
    assert configs.main(["hmdb/", "vivit", "JOINT"]) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert line.split() == ["HMDB/ViViT_joint_32x2_224", "ViViT", "joint", "32x2", "224", "88.67", "451.81"]
    assert configs.main(["nothing"]) == 2


def test_show_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert configs.main(["--show", NAME]) == 0
    assert capsys.readouterr().out == (shipped_folder() / f"{NAME}.yaml").read_text()
