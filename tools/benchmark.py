#!/usr/bin/env python3
"""Command line of the benchmarks in tools/benchmark/."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.benchmark.command_line import main

if __name__ == "__main__":
    sys.exit(main())
