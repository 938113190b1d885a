"""The same as `python tools/prepare.py hmdb_simp ...`."""

import runpy
import sys
from pathlib import Path

sys.argv[1:1] = ["hmdb_simp"]
runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools/prepare.py"), run_name="__main__")
