"""`timesformer completion bash`, used by bash."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.patience import PATIENCE

LINES = {
    "timesformer prev": ["preview"],
    "timesformer train --cfg Demo/ViViT_model1": ["Demo/ViViT_model1_8x2_48"],
    "timesformer train --cfg a.yaml SOLVER.OPTIMIZING_METHOD ": ["sgd", "adam", "adamw"],
    "timesformer test --checkpoint a.pyth TEST.NUM_ENS": ["TEST.NUM_ENSEMBLE_VIEWS"],
    "timesformer convert a.pyth b --to ": ["pyth", "hf", "safetensors"],
}
SCRIPT = """
source <(timesformer completion bash)
while IFS= read -r line; do
    COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9 COMPREPLY=()
    _python_argcomplete timesformer
    echo "${COMPREPLY[@]}"
done
"""


@pytest.mark.slow
def test_bash_completes_commands_options_configurations_and_keys(tmp_path: Path) -> None:
    program = tmp_path / "timesformer"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m timesformer "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", SCRIPT],
        input="".join(f"{line}\n" for line in LINES),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert [line.split() for line in done.stdout.splitlines()] == list(LINES.values())
