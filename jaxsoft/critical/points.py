"""Find critical points, from one start or from thousands in one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree

from jaxsoft import checks, process, sweep
from jaxsoft.critical.methods import Method
from jaxsoft.critical.search import CRITICAL, FAILED, MAKERS, VERDICTS, as_method, ground, search_on
from jaxsoft.curvature import Inertia, inertia
from jaxsoft.curvature.products import Loss, Params, check
from jaxsoft.process import DIVERGED, Process

MethodOf = Callable[[jax.Array], Method]


class CriticalPoint(NamedTuple):
    """The end of a search, or of n searches: then every array has n entries, and ``params`` n points on each leaf.

    params: θ. loss, grad_norm: L(θ) and ‖∇L(θ)‖₂. status: "critical", "gradient_flat", "diverging_to_infinity",
    "max_steps" or "failed" (see ``search.judge``); only the first is a critical point. steps: taken. flatness, kernel:
    Frye's r, and ρ, the share of the gradient that no step within 1 + ‖θ‖ cancels. distance: ‖p‖, the length of the
    Newton step that is left. inertia: the certified counts of curvatures, or None if they were not asked for; its band
    covers how much they may change on the way that is left (see ``search.judge``), so that ``inertia.zero`` > 0 tells a
    degenerate point; where rows of the Hessian are exactly zero their curvatures are counted in ``inertia.null``.
    """

    params: Params
    loss: np.ndarray
    grad_norm: np.ndarray
    status: np.ndarray
    steps: np.ndarray
    flatness: np.ndarray
    kernel: np.ndarray
    distance: np.ndarray
    inertia: Inertia | None

    def __str__(self) -> str:
        if np.ndim(self.loss):
            counts = {name: int(np.sum(self.status == name)) for name in VERDICTS}
            return ", ".join(f"{n} {name}" for name, n in counts.items() if n)
        at = f"{self.status}: loss {self.loss:.6g}, |gradient| {self.grad_norm:.1g} after {self.steps} steps"
        return at if self.inertia is None else f"{at}; {self.inertia}"


def find(
    loss: Loss,
    params: Params,
    method: str | Method = "newton_mr",
    *,
    tol: float | None = None,
    max_steps: int = 200,
    seed: int = 0,
    certify: bool = True,
) -> CriticalPoint:
    """Search for a critical point of ``loss`` from one start; ``find_all`` says more.

    >>> found = find(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, jnp.array([0.1, 0.2]), "newton", tol=1e-4)
    >>> str(found.status), int(found.inertia.negative)
    ('critical', 1)
    """
    check(loss, params)
    if not all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)):
        raise ValueError("params: expected a finite start, got NaN or infinity")
    stacked = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], params)
    ds, many = _search(loss, stacked, method, tol=tol, max_steps=max_steps, seed=seed)
    one = CriticalPoint(*(jax.tree.map(lambda leaf: leaf[0], field) for field in many))
    certificate = inertia(loss, one.params, band=_bands(ds)[0]) if certify else None
    return one._replace(inertia=certificate)


def find_all(
    loss: Loss,
    starts: Params,
    method: str | Method | MethodOf = "newton_mr",
    *,
    tol: float | None = None,
    max_steps: int = 200,
    seed: int = 0,
    certify: bool = True,
    out: str | Path | None = None,
    progress: bool = False,
) -> CriticalPoint:
    """Search for critical points of ``loss`` from every one of n starts, in one compiled program.

    Args:
        loss: ``loss(params) -> scalar``, twice differentiable; see ``search.judge`` for what is not.
        starts: a pytree with n points along the first axis of every leaf.
        method: one of ``METHODS``; a ``Method`` with settings, like ``eigenvector_following(3)``; or a function of the
            start's number, a traced one, that returns a ``Method``, like ``lambda i: eigenvector_following(ks[i])``
            with i as an integer and ks a jax array of them.
        tol: ‖∇L‖ at a critical point; 1e-8 in float64, 1e-5 in float32.
        max_steps: of each search.
        seed: of the noise, for the methods that draw it.
        certify: count the curvatures at every end with ``curvature.inertia``.
        out: a folder: the searches survive a crash, and the same call resumes.
        progress: show progress on standard error.

    A start never vanishes: one that is not finite ends as "failed", and where the Hessian is not finite every curvature
    is undecided, with a band and bound of NaN. Raises ValueError and TypeError for arguments that do not fit, each
    named.
    """
    ds, found = _search(loss, starts, method, tol=tol, max_steps=max_steps, seed=seed, out=out, progress=progress)
    if not certify:
        return found

    def measure(point: tuple[Params, jax.Array]) -> dict[str, jax.Array]:
        params, band = point
        return inertia(loss, params, band=band).arrays()

    ends = (found.params, _bands(ds))
    axes = {"point": range(len(found.loss))}
    counted = sweep.run(process.evaluate(measure, ends), axes, seed=seed, steps=1, progress=progress)
    names = [field.name for field in dataclasses.fields(Inertia) if field.name != "method"]
    counts = {name: counted[f"final_{name}"].to_numpy() for name in names}
    unknown = counted["status"].to_numpy() == DIVERGED  # nothing was counted there
    size = sum(leaf[0].size for leaf in jax.tree.leaves(found.params))
    for name, value in (("undecided", size), ("band", np.nan), ("bound", np.nan)):
        counts[name] = np.where(unknown, np.asarray(value, counts[name].dtype), counts[name])
    counts = {name: jnp.asarray(value) for name, value in counts.items()}
    one = jax.tree.map(lambda leaf: leaf[0], ends)
    method_used = jax.eval_shape(lambda end: inertia(loss, end[0], band=end[1]), one).method  # by size and memory
    return found._replace(inertia=Inertia(**counts, method=method_used))


def _search(
    loss: Loss, starts: Params, method: str | Method | MethodOf, *, tol: float | None, max_steps: int, seed: int,
    out: str | Path | None = None, progress: bool = False,
) -> tuple[xr.Dataset, CriticalPoint]:  # fmt: skip
    if callable(method) and method not in MAKERS:
        method_of = method
    else:
        chosen = as_method(method)
        method_of = lambda point: chosen  # noqa: E731
    checks.count("max_steps", max_steps)
    count, one = process.points_of("starts", starts)
    check(loss, one, "starts")
    place, segment = ground(loss, one, tol), _segment(method_of)

    def search(point: float | jax.Array) -> Process:
        number = jnp.asarray(point).astype(jnp.int32)
        return search_on(place, lambda key: process.point_at(starts, point), method_of(number))

    ds = sweep.run(
        search, {"point": range(count)}, seed=seed, steps=max_steps, record_every=max_steps, out=out,
        segment=segment, progress=progress,
    )  # fmt: skip
    return ds, from_dataset(ds, one)


def _segment(method_of: MethodOf) -> int | None:
    """The segment of the methods for traced numbers, all alike; TypeError for what are none."""
    made: list[object] = []
    jax.eval_shape(lambda number: made.append(method_of(number)), jax.ShapeDtypeStruct((), jnp.int32))
    if not isinstance(made[0], Method):
        raise TypeError(f"method: expected a function that returns a Method, got one that returns {made[0]!r}")
    return made[0].segment


def _bands(ds: xr.Dataset) -> jax.Array:
    """For every end √ε ‖H‖_F; 2 ``drift`` if that is more and the point critical: eigenvalues that vanish there."""
    norm, drift = ds["final_norm"].to_numpy(), ds["final_drift"].to_numpy()
    root = np.sqrt(np.finfo(norm.dtype).eps)
    critical = ds["final_verdict"].to_numpy() == CRITICAL
    usual = root * np.where((norm > 0) & np.isfinite(norm), norm, 1)
    return jnp.asarray(np.maximum(usual, np.where(critical & np.isfinite(drift), 2 * drift, 0)))


def from_dataset(ds: xr.Dataset, like: Params) -> CriticalPoint:
    """The ends of the searches in a sweep of ``make_search`` with one axis; ``like``: one point's shapes."""
    unravel = ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like))[1]
    last = ds.isel(step=-1)
    code = np.where(ds["status"].to_numpy() == DIVERGED, FAILED, ds["final_verdict"].to_numpy())
    return CriticalPoint(
        params=jax.vmap(unravel)(jnp.asarray(ds["final_params"].to_numpy())),
        loss=last["loss"].to_numpy(),
        grad_norm=last["grad_norm"].to_numpy(),
        status=np.array(VERDICTS)[code],
        steps=ds["steps"].to_numpy(),
        flatness=ds["final_flatness"].to_numpy(),
        kernel=ds["final_kernel"].to_numpy(),
        distance=ds["final_distance"].to_numpy(),
        inertia=None,
    )
