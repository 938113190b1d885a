#!/usr/bin/env python3
"""Submits a run to a Slurm cluster: the same as `timesformer submit`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.commands.submit import main

if __name__ == "__main__":
    sys.exit(main())
