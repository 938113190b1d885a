"""The commands of `timesformer`, which are also the scripts in tools/; a module for each."""

import os

# OpenMP reads this when PyTorch is imported: threads that wait must not keep cores from decoding and other programs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
