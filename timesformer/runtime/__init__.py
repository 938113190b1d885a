"""What a run needs of the machine: processes, devices, signals, logs and its folder."""
