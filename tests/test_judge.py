"""What tells a critical point from one that lies at infinity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxsoft import critical


@pytest.mark.parametrize("other", [0.0, 300.0])
def test_a_minimum_at_infinity_is_none_however_long_the_other_parameters_are(x64, other):
    found = critical.find(lambda x: jax.nn.softplus(-x[0]) + 0.5 * (x[1] - other) ** 2, jnp.array([1.0, 0.5]), "newton")
    assert found.status == "diverging_to_infinity"
    assert found.distance == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("power", [2, 4, 6, 8])
@pytest.mark.parametrize("begin", [0.5, 1.5])
def test_a_flat_minimum_is_critical_from_either_side(x64, power, begin):
    found = critical.find(lambda x: (x[0] - 1.0) ** power / power + x[1] ** 2, jnp.array([begin, 0.3]), "newton")
    assert found.status == "critical"
