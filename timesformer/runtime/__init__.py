"""Processes, devices, signals, logging and the output folder of a run."""
