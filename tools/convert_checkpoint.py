#!/usr/bin/env python3
"""Writes a checkpoint in another format: the same as `timesformer convert`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.commands.convert import main

if __name__ == "__main__":
    sys.exit(main())
