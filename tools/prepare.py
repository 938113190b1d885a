#!/usr/bin/env python3
"""Downloads, re-encodes, checks or splits a dataset: python tools/prepare.py DATASET ROOT (docs/preparing.md)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.preparation.command_line import main

if __name__ == "__main__":
    sys.exit(main())
