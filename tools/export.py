#!/usr/bin/env python3
"""Exports a trained model for other runtimes: the same as `timesformer export`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
