"""Download, re-encode and check HMDB51: python datasets/hmdb51/prepare.py ROOT"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a clone, installed or not

try:
    from timesformer.preparation.command_line import main
except KeyboardInterrupt:  # nothing is begun yet
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main("hmdb51"))
