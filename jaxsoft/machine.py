"""What the engine asks of the machine: the cache of a core, and how the compiler should use it."""

from __future__ import annotations

import contextlib
import functools
import os
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
            level, kind, size, shared = (
                (index / name).read_text().strip() for name in ("level", "type", "size", "shared_cpu_list")
            )
            known = re.fullmatch(r"(\d+)([KM]?)", size)
            if known and int(level) == 2 and kind != "Instruction":
                part = int(known[1]) * {"": 1, "K": 2**10, "M": 2**20}[known[2]] // max(_counted(shared), 1)
                return part or ASSUMED_CACHE
    return ASSUMED_CACHE


def _counted(listed: str) -> int:
    """How many there are in a list of numbers and ranges: 5 in 0-3,8."""
    ranges = [part.split("-") for part in listed.strip().split(",")]
    return sum(int(ends[-1]) - int(ends[0]) + 1 for ends in ranges)


@functools.cache
def compiler_options(platform: str) -> Mapping[str, bool | str]:
    """Options for programs of this platform; none that the compiler does not know or that XLA_FLAGS sets already."""
    asked = os.environ.get("XLA_FLAGS", "")
    if platform != "cpu" or any(name in asked for name in _WIDE):
        return {}
    try:
        jax.jit(lambda x: -x).lower(0.0).compile(compiler_options=dict(_WIDE))
    except jax.errors.JaxRuntimeError:
        return {}
    return _WIDE
