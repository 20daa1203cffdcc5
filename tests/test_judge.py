"""What tells a critical point from one that lies at infinity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxsoft import critical

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("other", [0.0, 300.0])
def test_a_minimum_at_infinity_is_none_however_long_the_other_parameters_are(x64, other):
    found = critical.find(lambda x: jax.nn.softplus(-x[0]) + 0.5 * (x[1] - other) ** 2, jnp.array([1.0, 0.5]), "newton")
    assert found.status == "diverging_to_infinity"
    assert found.distance == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("power", [2, 4, 6, 8])
def test_a_flat_minimum_is_critical_from_either_side(x64, power):
    starts = jnp.array([[0.5, 0.3], [1.5, 0.3]])
    found = critical.find_all(lambda x: (x[0] - 1.0) ** power / power + x[1] ** 2, starts, "newton", certify=False)
    assert list(found.status) == ["critical"] * 2


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_the_way_to_infinity_does_not_depend_on_where_zero_is(x64, offset):
    """softplus(-(x + c)): Newton's steps tend to 1 for every c, but |x| shrinks as long as x < 0."""
    found = critical.find(lambda x: jax.nn.softplus(-(x[0] + offset)) + x[1] ** 2, jnp.array([1.0 - offset, 0.5]))
    assert found.status == "diverging_to_infinity"
    assert offset == 0 or found.params[0] < 0


SEPARABLE = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-0.99, 0.2]])  # (0.1, 1) separates them
SATURATED = jnp.array([-60.0, -900.0])  # all on the wrong side, so far that every sigmoid is constant


def logistic(examples, l2=0.0):
    return lambda w: jnp.mean(jax.nn.softplus(-examples @ w)) + 0.5 * l2 * jnp.sum(w**2)


def test_a_saturated_end_has_its_minimum_at_infinity_only_where_a_plane_separates(x64):
    downhill = -jax.grad(logistic(SEPARABLE))(SATURATED)
    assert (SEPARABLE @ downhill).min() < 0  # straight downhill the loss would rise again
    for examples, expected in (
        (SEPARABLE, "diverging_to_infinity"),
        (jnp.concatenate([SEPARABLE, -SEPARABLE[:1]]), "gradient_flat"),  # has a minimum, or a valley with a floor
    ):
        found = critical.find(logistic(examples), SATURATED, "trust_region")
        assert found.grad_norm > 0.1
        assert found.status == expected
    assert critical.find(logistic(SEPARABLE, l2=0.1), SATURATED, "newton").status == "critical"


def test_a_loss_that_falls_without_bound_has_no_minimum_at_infinity(x64):
    found = critical.find(lambda x: x[0] ** 2 + 1e-3 * x[1], jnp.array([0.3, 0.1]))
    assert found.status == "gradient_flat"  # the gradient vanishes nowhere


@pytest.mark.parametrize(("powers", "index"), [((2, 2), 1), ((4, 4), 2)])
def test_a_search_uphill_without_end_gives_up(x64, powers, index):
    """x^p + 2 y^q grows to all sides: there is no saddle and no maximum."""
    start, farthest = jnp.array([3.0, 4.0]), 30.0
    method = critical.eigenvector_following(index, farthest=farthest)
    found = critical.find(lambda p: p[0] ** powers[0] + 2 * p[1] ** powers[1], start, method, max_steps=1000)
    assert found.status == "failed"
    assert found.steps < 100
    limit = farthest * (1 + 5)  # |start| = 5
    assert limit < float(jnp.linalg.norm(found.params)) < 4 * limit  # no step is longer than the way so far
