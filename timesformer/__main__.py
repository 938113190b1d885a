"""`python -m timesformer`, the same as the installed command `timesformer`."""

import sys

from timesformer.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
