"""What this machine can do at most, measured: the limit next to which the times of the race are read.

Rates are measured on all cores in float32: a large matrix product; tanh, exp and log of an array in the cache; bytes to
and from memory in the sum of two arrays that do not fit it. "machine" is the better of what NumPy and XLA reach, "xla"
what XLA reaches, compiled as the sweeps are, whose functions a program in jax cannot leave.

    limit time = flops / GEMM rate + tanhs / rate + exps / rate + logs / rate + bytes to memory / bandwidth

Sums, products and quotients element by element are not in it, and nothing is lost between the parts: a bound from
below on the time of a program that does these parts one after the other. The share of the limit is it over the measured
time. What a machine does in a second changes with what else it does, so the rates are means over a time, measured again
in every round, and a round's share is that of its own rates.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks.items import Limits
from jaxsoft import machine

FUNCTIONS = {"tanh": (np.tanh, jnp.tanh), "exp": (np.exp, jnp.exp), "log": (np.log, jnp.log)}


def rate(amount: float, call: Callable[[], object], window: float) -> float:
    """Amount a second, over calls for so many seconds, at least one, after one to warm up."""
    call()
    begin, calls, spent = time.perf_counter(), 0, 0.0
    while calls == 0 or spent < window:
        call()
        calls, spent = calls + 1, time.perf_counter() - begin
    return amount * calls / spent


def measure(window: float = 0.2, **sizes: int) -> dict[str, Limits]:
    """The limits "machine" and "xla" now, each rate over ``window`` seconds; the sizes are those of ``calls``."""
    found: dict[str, dict[str, float]] = {"numpy": {}, "xla": {}}
    for (library, name), (amount, call) in calls(**sizes).items():
        found[library][name] = rate(amount, call, window)
    bandwidth = found["numpy"].pop("bandwidth")
    found["machine"] = {name: max(found["numpy"][name], found["xla"][name]) for name in found["xla"]}
    return {
        name: Limits(**found[name], bandwidth=bandwidth, cache_bytes=machine.cache_bytes())
        for name in ("machine", "xla")
    }


@functools.cache
def calls(
    gemm_size: int = 2048, elements: int = 2**16, stream: int = 2**25
) -> dict[tuple[str, str], tuple[float, Callable[[], object]]]:
    """What is timed, by library and name, each with its amount, on the devices of this process, one a core.

    gemm_size: rows of the matrices; elements: of the array of one core under tanh, exp and log; stream: of the arrays
    that are added, all cores together.
    """
    cores = os.cpu_count() or 1
    devices = jax.local_devices()
    mesh = Mesh(np.array(devices), ("core",), axis_types=(AxisType.Auto,))
    share = PartitionSpec("core")
    options = dict(machine.compiler_options(devices[0].platform))
    rng = np.random.default_rng(0)
    pool = ThreadPoolExecutor(cores)
    times = 64  # a function is called in one go, so that starting the threads is nothing

    def on_devices(call: Callable[[jax.Array], jax.Array], x: np.ndarray) -> Callable[[], object]:
        shards = jax.shard_map(call, mesh=mesh, in_specs=share, out_specs=share, check_vma=False)
        mapped = jax.jit(shards, compiler_options=options)
        shared = jax.device_put(x, NamedSharding(mesh, share))
        return lambda: jax.block_until_ready(mapped(shared))

    def on_cores(call: Callable[[int], object]) -> Callable[[], object]:
        return lambda: list(pool.map(call, range(cores)))

    rows = gemm_size // len(devices) * len(devices)
    a, b = (rng.normal(size=(n, gemm_size)).astype(np.float32) for n in (rows, gemm_size))
    flops = 2.0 * rows * gemm_size**2
    made: dict[tuple[str, str], tuple[float, Callable[[], object]]] = {
        ("numpy", "gemm"): (flops, lambda: a @ b),
        ("xla", "gemm"): (flops, on_devices(lambda part: part @ b, a)),
    }
    x = rng.uniform(0.5, 1.5, size=(cores, elements)).astype(np.float32)
    y = np.empty_like(x)
    onto = np.resize(x, (len(devices), elements))
    for name, (of_numpy, of_jax) in FUNCTIONS.items():

        def many(i: int, f: Callable[..., object] = of_numpy) -> None:
            for _ in range(times):
                f(x[i], out=y[i])

        def loop(part: jax.Array, f: Callable[[jax.Array], jax.Array] = of_jax) -> jax.Array:
            return jax.lax.fori_loop(0, times, lambda _, z: f(1.0 + 1e-3 * z), part)  # z stays in the domain

        made["numpy", name] = float(times * x.size), on_cores(many)
        made["xla", name] = float(times * onto.size), on_devices(loop, onto)
    u, v, w = (np.full((cores, stream // cores), value, np.float32) for value in (1.0, 2.0, 3.0))
    made["numpy", "bandwidth"] = 3.0 * u.nbytes, on_cores(lambda i: np.add(u[i], v[i], out=w[i]))
    return made
