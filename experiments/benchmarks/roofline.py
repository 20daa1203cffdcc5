"""What this machine can do at most, measured: the limit next to which the times of the race are read.

Rates are measured on all cores in float32: a large matrix product; tanh, exp and log of an array in the cache; bytes to
and from memory in the sum of two arrays that do not fit it. "machine" is the better of what NumPy and XLA reach, "xla"
what XLA reaches, whose functions a program in jax cannot leave.

    limit time = flops / GEMM rate + tanhs / rate + exps / rate + logs / rate + bytes to memory / bandwidth

Sums, products and quotients element by element are not in it, and nothing is lost between the parts: a bound from
below on the time of a program that does these parts one after the other. The share of the limit is it over the measured
time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks.items import Limits
from experiments.benchmarks.timing import seconds

FUNCTIONS = {"tanh": (np.tanh, jnp.tanh), "exp": (np.exp, jnp.exp), "log": (np.log, jnp.log)}
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
ASSUMED_CACHE = 2**20  # a core's, where the system does not say


def rate(amount: float, call: Callable[[], object], repeats: int) -> float:
    """Amount a second, in the best of some calls after one to warm up."""
    call()
    return amount / min(seconds(call) for _ in range(repeats))


def cache_bytes() -> int:
    """The second-level cache of a core."""
    for index in sorted(CACHES.glob("index*")):
        if (index / "level").read_text().strip() == "2":
            size = re.fullmatch(r"(\d+)([KM]?)", (index / "size").read_text().strip())
            if size:
                return int(size[1]) * {"": 1, "K": 2**10, "M": 2**20}[size[2]]
    return ASSUMED_CACHE


def measure(gemm_size: int = 2048, elements: int = 2**16, stream: int = 2**25, repeats: int = 5) -> dict[str, Limits]:
    """The limits "machine" and "xla", with the devices of this process, one XLA device a core.

    gemm_size: rows of the matrices; elements: of the array of one core under tanh, exp and log; stream: of the arrays
    that are added, all cores together.
    """
    cores = os.cpu_count() or 1
    devices = jax.local_devices()
    mesh = Mesh(np.array(devices), ("core",), axis_types=(AxisType.Auto,))
    share = PartitionSpec("core")
    rng = np.random.default_rng(0)
    calls = 64  # of a function in one go, so that starting the threads is nothing

    def on_devices(call: Callable[[jax.Array], jax.Array], x: np.ndarray) -> Callable[[], object]:
        mapped = jax.jit(jax.shard_map(call, mesh=mesh, in_specs=share, out_specs=share, check_vma=False))
        shared = jax.device_put(x, NamedSharding(mesh, share))
        return lambda: jax.block_until_ready(mapped(shared))

    def on_cores(call: Callable[[int], object]) -> Callable[[], object]:
        return lambda: list(pool.map(call, range(cores)))

    with ThreadPoolExecutor(cores) as pool:
        rows = gemm_size // len(devices) * len(devices)
        a, b = (rng.normal(size=(n, gemm_size)).astype(np.float32) for n in (rows, gemm_size))
        flops = 2 * rows * gemm_size**2
        found = {
            "numpy": {"gemm": rate(flops, lambda: a @ b, repeats)},
            "xla": {"gemm": rate(flops, on_devices(lambda part: part @ b, a), repeats)},
        }
        x = rng.uniform(0.5, 1.5, size=(cores, elements)).astype(np.float32)
        y = np.empty_like(x)
        for name, (of_numpy, of_jax) in FUNCTIONS.items():

            def many(i: int, f: Callable[..., object] = of_numpy) -> None:
                for _ in range(calls):
                    f(x[i], out=y[i])

            def loop(part: jax.Array, f: Callable[[jax.Array], jax.Array] = of_jax) -> jax.Array:
                return jax.lax.fori_loop(0, calls, lambda _, z: f(1.0 + 1e-3 * z), part)  # z stays in the domain

            found["numpy"][name] = rate(calls * x.size, on_cores(many), repeats)
            onto = np.resize(x, (len(devices), elements))
            found["xla"][name] = rate(calls * onto.size, on_devices(loop, onto), repeats)
        u, v, w = (np.full((cores, stream // cores), value, np.float32) for value in (1.0, 2.0, 3.0))
        bandwidth = rate(3 * u.nbytes, on_cores(lambda i: np.add(u[i], v[i], out=w[i])), repeats)
    found["machine"] = {name: max(found["numpy"][name], found["xla"][name]) for name in found["xla"]}
    return {name: Limits(**found[name], bandwidth=bandwidth, cache_bytes=cache_bytes()) for name in ("machine", "xla")}
