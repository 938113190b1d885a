#!/usr/bin/env python3
"""Prepares and checks a dataset: the same as `timesformer prepare`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.commands.prepare import main

if __name__ == "__main__":
    sys.exit(main())
