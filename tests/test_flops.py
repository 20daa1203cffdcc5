"""Operations are counted with each pass of a scan; by them, and by the memory of several lanes, the engine plans."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxsoft import axes, flops, machine, process, program

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


def test_what_is_not_asked_for_does_not_count():
    """A loop whose result is dropped, as a record between two looks is; and what a loop hands out for nothing."""

    def step(x):
        nested(x)
        return jax.lax.scan(lambda y, _: (MATRIX @ y, times(50)(y)), x, length=4)[0]

    assert 4 * PRODUCT <= flops.count(jax.make_jaxpr(step)(jnp.ones(64))) < 4.3 * PRODUCT


def test_a_while_loop_counts_once():
    def until(x):
        return jax.lax.while_loop(lambda y: jnp.sum(y) < 1e9, lambda y: MATRIX @ (2 * y), x)

    assert PRODUCT <= flops.count(jax.make_jaxpr(until)(jnp.ones(64))) < 1.1 * PRODUCT


def halves():
    def step(x):
        return 0.5 * x, process.Info(jnp.zeros((), jnp.int32), {"x": x[0]}, {})

    return process.Process(lambda key: jax.random.normal(key, (8,)), step)


@pytest.mark.parametrize(
    ("cache", "bytes_", "width"),
    [
        (2**20, 4_000, 128),
        (2**20, 32_000, 16),
        (2**20, 70_000, 4),
        (2**21, 70_000, 8),
        (2**21, 2**30, 1),
        (2**17, 70_000, 4),
    ],
)
def test_lanes_side_by_side_fit_half_of_the_cache(cache, bytes_, width, monkeypatch):
    """Of a small one more, as there is another behind it."""
    made = program.Program(halves(), next(axes.Grid({"run": axes.Seeds(10_000)}).blocks()), [], 10)
    monkeypatch.setattr(machine, "cache_bytes", lambda: cache)
    monkeypatch.setattr(program.Program, "_scratch_bytes", lambda self: bytes_)
    monkeypatch.setattr(program, "_COMPILED", type(program._COMPILED)())
    assert made.plan(1, 10_000).width == width


@given(st.integers(1, 10**6), st.integers(1, 10**4))
def test_parts_of_equal_length_leave_little_over(total, most):
    """As few as can be, and together less than one step each longer than asked."""
    size = program._even(total, most)
    parts = -(-total // size)
    assert 1 <= size <= most
    assert parts <= -(-total // most)
    assert parts * size - total < parts


@pytest.mark.parametrize(("limit", "steps"), [(100, 100), (130, 130), (131, 66), (400, 100)])
def test_the_last_segment_is_as_long_as_the_rest(limit, steps, monkeypatch):
    """With 130 steps to a segment: a second one for a single step would cost as much as 130."""
    made = program.Program(halves(), next(axes.Grid({"run": axes.Seeds(8)}).blocks()), [], limit)
    monkeypatch.setattr(program.Program, "_flops", lambda self: program.SEGMENT_FLOPS / 130)
    monkeypatch.setattr(program, "_COMPILED", type(program._COMPILED)())
    plan = made.plan(1, 8, 1)
    assert plan.interval * plan.looks == steps
