#!/usr/bin/env python3
"""Writes the report of a run: the same as `timesformer report`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
