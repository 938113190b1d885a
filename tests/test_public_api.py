"""What `import timesformer` offers."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import timesformer
from timesformer.config.sources import source_problem


def test_the_names_of_the_package_exist_and_type_checkers_know_them():
    assert dir(timesformer) == sorted(timesformer.__all__)
    for name in timesformer.__all__:
        assert getattr(timesformer, name).__doc__ or name == "__version__"
    tree = ast.parse(Path(timesformer.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    imported = {
        alias.name: node.module.removeprefix("timesformer.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == timesformer._MODULES
    assert {*imported, "__version__"} == set(timesformer.__all__)
    assert (Path(timesformer.__file__).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="no_such_name"):
        timesformer.no_such_name  # noqa: B018


def test_importing_the_package_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import timesformer, json; dir(timesformer);"
    code += "print(json.dumps(sorted(set(sys.modules) - before)))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = {name.partition(".")[0] for name in json.loads(process.stdout)}
    assert not modules & {"torch", "numpy", "av", "PIL", "fvcore", "yaml"}


def test_released_models_are_listed_by_a_part_of_their_name():
    assert all(not source_problem(name) for name in timesformer.list_models())
    assert timesformer.list_models("videomae_b") == timesformer.list_models("VideoMAE_B*")
    assert len(timesformer.list_models("ssv2")) == 5
    assert timesformer.list_models("no such model") == []


def test_configurations_are_listed_by_the_names_that_load_them():
    names = timesformer.list_configs("demo/*8x2_48")
    assert "Demo/TimeSformer_divST_8x2_48" in names
    assert all(timesformer.load_config(name, check_values=False).DATA.NUM_FRAMES == 8 for name in names)
