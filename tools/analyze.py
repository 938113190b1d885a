#!/usr/bin/env python3
"""Adds sections about single clips to a report: the same as `timesformer analyze`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.commands.analyze import main

if __name__ == "__main__":
    sys.exit(main())
