"""Which critical point holds a run on its plateau: from the flattest state, a search that ends with a verdict."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree

from jaxsoft import checks, process, sweep
from jaxsoft.critical import Method, find_all
from jaxsoft.curvature import spectrum
from jaxsoft.curvature.products import Loss, Params
from jaxsoft.process import DIVERGED


def behind(
    loss: Loss,
    states: Params,
    at: xr.DataArray,
    *,
    method: str | Method = "newton_mr",
    tol: float | None = None,
    max_steps: int = 200,
    delta: float = 0.1,
    progress: bool = False,
) -> xr.Dataset:
    """The critical point behind each plateau of a sweep: its loss, its index, the rate at which runs leave it.

        at = plateau.flattest(ds, plateau.detect(ds, kappa=5e-3))
        found = plateau.behind(loss, replay.states(process, axes, at, seed=0), at)

    All searches run in one compiled program (``critical.find_all``), as do the certificates.

    Args:
        loss: ``loss(params) -> scalar``, of the full batch.
        states: parameters, n points along the first axis of every leaf, one for each step in ``at``.
        at: the steps of these states, labelled as in the sweep; NaN where there is none.
        method, tol, max_steps: of the search, see ``find_all``. Use float64.
        delta: δ, by how much ln L may differ between the state and the critical point that is behind its plateau.
        progress: show progress on standard error.

    Returns:
        A dataset with the dimensions of ``at``: ``step``; ``here``, the loss of the state; ``status``, the verdict of
        the search (see ``CriticalPoint``), or "elsewhere" for a critical point whose ln L differs by more than δ, or
        "none" where no step was given; ``loss``, ``grad_norm`` and ``params`` (P,) of the end θ*, and ``distance`` =
        ‖θ* - θ‖₂ to it. Where the status is "critical" also ``index``, the number of curvatures surely below zero,
        ``undecided``, how many may be (see ``Inertia``), and ``rate`` = -λ_min(θ*), the escape rate: gradient descent
        with the learning rate η leaves as (1 + η · rate)ᵗ; a minimum has a negative one. Else these three are NaN.

    Raises ValueError where the numbers of states and steps differ, and what ``find_all`` raises.
    """
    checks.positive("delta", delta)
    steps = at.to_numpy().astype(float)
    asked = ~np.isnan(steps)
    count, _ = process.points_of("states", states)
    if count != asked.sum():
        raise ValueError(f"states: expected {asked.sum()} points, one for each step, got {count}")
    found = find_all(loss, states, method, tol=tol, max_steps=max_steps, progress=progress)
    assert found.inertia is not None

    def measure(pair: tuple[Params, Params]) -> dict[str, jax.Array]:
        state, end = pair
        begin, theta = ravel_pytree(state)[0], ravel_pytree(end)[0]
        return {
            "here": loss(state),
            "params": theta,
            "distance": jnp.linalg.norm(theta - begin),
            "rate": -spectrum(loss, end, 1, "SA").eigenvalues[0],
        }

    measured = sweep.run(
        process.evaluate(measure, (states, found.params)), {"point": range(count)}, seed=0, steps=1, segment=1,
        progress=progress,
    )  # fmt: skip
    names = ("here", "params", "distance", "rate")
    values = {n: measured[f"final_{n}"].where(measured["status"] != DIVERGED).to_numpy() for n in names}
    values |= {"loss": found.loss, "grad_norm": found.grad_norm}
    values |= {
        "index": np.asarray(found.inertia.negative, float),
        "undecided": np.asarray(found.inertia.undecided, float),
    }
    off = np.abs(found.loss - values["here"])
    alike = off <= np.expm1(delta) * np.minimum(np.abs(found.loss), np.abs(values["here"]))
    status = np.where((found.status == "critical") & ~alike, "elsewhere", found.status)
    for name in ("index", "undecided", "rate"):
        values[name] = np.where(status == "critical", values[name], np.nan)

    def labelled(value: np.ndarray, empty: object) -> tuple[tuple[str, ...], np.ndarray]:
        whole = np.full((*at.shape, *value.shape[1:]), empty, dtype=value.dtype)
        whole[asked] = value
        return (*map(str, at.dims), *(("parameter",) if value.ndim > 1 else ())), whole

    variables = {name: labelled(value, np.nan) for name, value in values.items()}
    named = labelled(status.astype("U21"), "none")
    return xr.Dataset({"step": (at.dims, steps), "status": named, **variables}, at.coords).assign_attrs(delta=delta)
