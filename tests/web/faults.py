"""Decoders with faults, in a module that other processes import quickly."""

import os
import time
from typing import Any

import numpy as np


def crash(path: str) -> list[Any]:
    os.abort()


def hang(path: str) -> list[Any]:
    time.sleep(1000)
    return []


def exhaust_memory(path: str) -> list[Any]:
    return [np.ones(2**27, np.uint8) for _ in range(8)]
