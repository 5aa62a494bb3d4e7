"""Sizes and cores: how settings write them and how pages show them.

Memory is always bytes in the code. Settings write it as JupyterHub's ``ByteSpecification`` does
(K, M, G, T, powers of 1024) and people always see GB, where 1 GB is 1024 MB as in the settings.
"""

from __future__ import annotations

import re

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4
_UNITS = {"K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([KMGT])")

SIZE_EXPECTED = (
    'a size with one of the units K, M, G, T (powers of 1024), for example "512M" or "4G"'
)


def parse_size(text: str) -> int:
    """Bytes of a size such as ``4G``.

    Raises ValueError for anything that is not exactly a number and one of K, M, G, T.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not {SIZE_EXPECTED}")
    return int(float(match[1]) * _UNITS[match[2]])


def format_size(size: int) -> str:
    """The size of ``size`` bytes for people, in GB: ``4 GB``, ``0.5 GB``, ``1.25 GB``."""
    return f"{round(size / GIB, 2):g} GB" if size < 1000 * GIB else f"{round(size / GIB)} GB"


def format_cores(cores: float) -> str:
    """Cores for people: ``2 CPU``, ``0.25 CPU``."""
    return f"{round(cores, 2):g} CPU"


def write_size(size: int) -> str:
    """The shortest way to write a size in the settings: ``4G``, ``1536M``; bytes if none fits."""
    for unit, factor in (("T", TIB), ("G", GIB), ("M", MIB), ("K", KIB)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
