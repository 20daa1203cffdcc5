"""How many operations a function takes, as the compiler counts them, with each pass of a scan counted.

The compiler's own analysis takes a loop's body once, however often it runs. How long a ``while_loop`` goes on is not
known before, so its body is counted once here, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr


def count(traced: ClosedJaxpr) -> float:
    """Floating-point operations for what comes out, transcendental functions not among them.

    >>> import jax.numpy as jnp
    >>> matrix = jnp.ones((100, 100))
    >>> power = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 10, lambda _, y: matrix @ y, x))
    >>> round(count(power(jnp.ones(100))) / (2 * 100 * 100))
    10
    """
    alive, _ = dce_jaxpr(traced.jaxpr, [True] * len(traced.out_avals), instantiate=True)
    return _counted(traced.replace(jaxpr=alive))[1]


def _counted(traced: ClosedJaxpr) -> tuple[float, float]:
    """With every loop run once, and with every pass of a scan."""
    once = total = _once(traced)
    for scan in _scans(traced.jaxpr):
        body_once, body = _counted(scan.params["jaxpr"])
        total += scan.params["length"] * body - body_once
    return once, total


def _once(traced: ClosedJaxpr) -> float:
    """By the compiler."""
    analysis = jax.jit(jaxpr_as_fun(traced)).lower(*traced.in_avals).cost_analysis()
    return float((analysis or {}).get("flops", 0.0))


def _scans(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """The scans of a computation that are not in another scan; one without a pass is nothing to the compiler either."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            if equation.params["length"] > 0:
                yield equation
        else:
            for inner in jaxprs_in_params(equation.params):
                yield from _scans(inner)
