"""Operations are counted with each pass of a scan; the engine plans by them and by the memory of several lanes."""

import jax
import jax.numpy as jnp
import pytest

from jaxsoft import axes, flops, process, program

MATRIX = jnp.eye(64)
PRODUCT = 2 * 64 * 64


def times(passes):
    return lambda x: jax.lax.fori_loop(0, passes, lambda _, y: MATRIX @ y, x)


def nested(x):
    return jax.jit(lambda x: jax.lax.scan(lambda y, _: (times(3)(y), None), x, length=5)[0])(x)


LOOPS = {
    "no loop": (lambda x: MATRIX @ x, 1),
    "a loop": (times(10), 10),
    "a loop in a loop, jitted": (nested, 15),
    "two loops": (lambda x: times(2)(times(3)(x)), 5),
    "in vmap": (lambda x: jax.vmap(times(4))(jnp.stack([x, x])), 8),
    "no passes": (times(0), 0),
}


@pytest.mark.parametrize("name", LOOPS)
def test_every_pass_of_a_scan_counts(name):
    """Beside the products a pass counts itself: some operations, far below one product."""
    function, products = LOOPS[name]
    counted = flops.count(jax.make_jaxpr(function)(jnp.ones(64)))
    assert products * PRODUCT <= counted < (products + 0.05 * products + 0.01) * PRODUCT


def test_a_while_loop_counts_once():
    def until(x):
        return jax.lax.while_loop(lambda y: jnp.sum(y) < 1e9, lambda y: MATRIX @ (2 * y), x)

    assert PRODUCT <= flops.count(jax.make_jaxpr(until)(jnp.ones(64))) < 1.1 * PRODUCT


def halves():
    def step(x):
        return 0.5 * x, process.Info(jnp.zeros((), jnp.int32), {"x": x[0]}, {})

    return process.Process(lambda key: jax.random.normal(key, (8,)), step)


@pytest.mark.parametrize(("bytes_", "width"), [(4_000, 128), (32_000, 16), (70_000, 8), (250_000, 4), (2**30, 1)])
def test_lanes_side_by_side_fit_the_cache(bytes_, width, monkeypatch):
    """As many as fit half a MiB; up to eight may take a whole one."""
    made = program.Program(halves(), next(axes.Grid({"run": axes.Seeds(10_000)}).blocks()), [], 10)
    monkeypatch.setattr(program.Program, "_scratch_bytes", lambda self: bytes_)
    monkeypatch.setattr(program, "_COMPILED", type(program._COMPILED)())
    assert made.plan(1, 10_000).width == width
