"""What the engine asks of the machine: the cache of a core, and how the compiler should use it."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Mapping
from pathlib import Path

import jax

ASSUMED_CACHE = 2**20  # a core's second-level cache, where the system does not say
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# Registers of 512 bits, where there are any: the compiler takes 256 by itself, and elementwise code takes longer.
_WIDE: dict[str, bool | str] = {"xla_cpu_prefer_vector_width": "512"}


@functools.cache
def cache_bytes(caches: Path = _CACHES) -> int:
    """A core's part of its second-level cache, in bytes; 1 MiB where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        for index in sorted(caches.glob("index*")):
            size = re.fullmatch(r"(\d+)([KM]?)", (index / "size").read_text().strip())
            if size and int((index / "level").read_text()) == 2:
                whole = int(size[1]) * {"": 1, "K": 2**10, "M": 2**20}[size[2]]
                return whole // _counted((index / "shared_cpu_list").read_text())
    return ASSUMED_CACHE


def _counted(listed: str) -> int:
    """How many there are in a list of numbers and ranges: 5 in 0-3,8."""
    ranges = [part.split("-") for part in listed.strip().split(",")]
    return sum(int(ends[-1]) - int(ends[0]) + 1 for ends in ranges)


@functools.cache
def compiler_options(platform: str) -> Mapping[str, bool | str]:
    """Options with which programs for this platform are compiled; none where the compiler does not know them."""
    if platform != "cpu":
        return {}
    try:
        jax.jit(lambda x: -x).lower(0.0).compile(compiler_options=dict(_WIDE))
    except jax.errors.JaxRuntimeError:
        return {}
    return _WIDE
