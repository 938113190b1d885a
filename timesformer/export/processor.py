"""The processor and its instruction sets for products of matrices."""

import platform
from pathlib import Path

_SETS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8")
_INT8 = {"avx_vnni", "avx512_vnni", "amx_int8"}


def instruction_sets() -> list[str]:
    """The instruction sets that matter for the speed, Linux's names; empty where they are not known."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return []
    return [name for name in _SETS if name in words]


def describe_processor() -> str:
    """The architecture and the instruction sets."""
    return " ".join([platform.machine(), *instruction_sets()])


def has_int8_products() -> bool:
    """Whether there are instructions for products of int8 whose sums do not overflow (VNNI, AMX)."""
    return not _INT8.isdisjoint(instruction_sets())
