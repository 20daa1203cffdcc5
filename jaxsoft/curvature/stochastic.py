"""Whole-spectrum quantities from random vectors and Hessian-vector products, each with its standard error."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from jaxsoft import checks
from jaxsoft.curvature.lanczos import exponent, orthonormal, random_krylov, scaled, spectrum
from jaxsoft.curvature.products import Loss, Params, check, products


class Estimate(NamedTuple):
    """A Monte-Carlo mean and its standard error, in the units of the quantity."""

    value: jax.Array
    error: jax.Array


class Density(NamedTuple):
    """The spectral density μ(λ) = (1/P) Σ δ(λ - λ_i) as seen from k random vectors.

    nodes, weights: (k, m), a Gauss quadrature for each vector, weights >= 0 that sum to 1.
    """

    nodes: jax.Array
    weights: jax.Array

    def moment(self, j: int) -> Estimate:
        """∫ λʲ dμ = Tr(Hʲ)/P, unbiased for j <= 2m - 1, as the quadrature is exact there."""
        return _mean(jnp.sum(self.weights * self.nodes ** checks.count("j", j, at_least=0), axis=1))

    def smoothed(self, grid: ArrayLike, width: float) -> Estimate:
        """μ convolved with a Gaussian of standard deviation ``width``, at ``grid`` (g,): (g,), in 1/λ."""
        checks.positive("width", width)
        gap = (jnp.asarray(grid)[:, None, None] - self.nodes[None]) / width
        kernel = jnp.exp(-0.5 * jnp.square(gap)) / (width * jnp.sqrt(2 * jnp.pi))
        return _mean(jnp.sum(self.weights[None] * kernel, axis=2).T)

    def cumulative(self, grid: ArrayLike) -> Estimate:
        """The share of eigenvalues <= each of ``grid`` (g,): (g,)."""
        at_most = self.nodes[None] <= jnp.asarray(grid)[:, None, None]
        return _mean(jnp.sum(self.weights[None] * at_most, axis=2).T)


def _mean(samples: jax.Array) -> Estimate:
    """Mean over the first axis, and s/√k, whose squares neither under- nor overflow."""
    unit = exponent(samples)
    error = jnp.std(jnp.ldexp(samples, -unit), axis=0, ddof=1) / jnp.sqrt(len(samples))
    return Estimate(jnp.mean(samples, axis=0), jnp.ldexp(error, unit))


def density(loss: Loss, params: Params, key: jax.Array, *, probes: int = 16, depth: int = 64) -> Density:
    """The spectral density by stochastic Lanczos quadrature: ``probes`` random vectors, ``depth`` products each.

    vᵀ f(H) v for a random unit v has the mean Tr f(H)/P; m Lanczos steps from v give T = Qᵀ H Q, whose eigenvalues and
    squared first components are the Gauss quadrature of that v (Golub & Welsch 1969; Ghorbani, Krishnan & Xiao 2019).
    The vectors are Gaussian, normalised. Raises ValueError for fewer than two probes (there is no error then).
    """
    size, dtype = check(loss, params)
    checks.count("probes", probes, at_least=2)
    depth = min(checks.count("depth", depth), size)
    with jax.default_matmul_precision("highest"):
        apply, unit = scaled(products(loss, params), size, dtype)

        def quadrature(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            nodes, mix = jnp.linalg.eigh(random_krylov(apply, size, dtype, 1, depth, key).small)
            return jnp.ldexp(nodes, unit), jnp.square(mix[0])

        return Density(*jax.lax.map(quadrature, jax.random.split(key, probes)))


def trace(loss: Loss, params: Params, key: jax.Array, *, products_taken: int = 96) -> Estimate:
    """Tr H by Hutch++ (Meyer, Musco, Musco & Woodruff 2021), from so many Hessian-vector products.

    A third of them finds a basis Q of H's large eigenvalues, whose trace Tr(Qᵀ H Q) is then exact; random signs g
    estimate the rest, Tr((I - QQᵀ) H (I - QQᵀ)), and its standard error. Where Q spans everything the error is 0.
    Raises ValueError for fewer than 9 products.
    """
    size, dtype = check(loss, params)
    count = checks.count("products_taken", products_taken, at_least=9) // 3
    width = min(count, size)
    apply = products(loss, params)
    sketch_key, fill_key, probe_key = jax.random.split(key, 3)
    with jax.default_matmul_precision("highest"):
        sketch = apply(jax.random.rademacher(sketch_key, (size, width), dtype))
        sketch = jnp.ldexp(sketch, -exponent(sketch))
        basis = orthonormal(sketch, jnp.zeros((size, 1), dtype), fill_key)
        exact = jnp.sum(basis * apply(basis))
        if width == size:
            return Estimate(exact, jnp.zeros((), dtype))
        probes = jax.random.rademacher(probe_key, (size, count), dtype)
        probes = probes - basis @ (basis.T @ probes)
        rest = _mean(jnp.sum(probes * apply(probes), axis=0))
        return Estimate(exact + rest.value, rest.error)


def sharpness(loss: Loss, params: Params, *, tol: float | None = None, key: jax.Array | None = None) -> jax.Array:
    """λ_max(H), the largest eigenvalue: NaN where the search did not converge."""
    found = spectrum(loss, params, 1, "LA", tol=tol, key=key)
    return jnp.where(found.converged[0], found.eigenvalues[0], jnp.nan)


def gradient_overlap(loss: Loss, params: Params, k: int, *, key: jax.Array | None = None) -> jax.Array:
    """The share ‖V_kᵀ g‖² / ‖g‖² of the gradient g in the span V_k of the k largest eigenvalues, in [0, 1].

    Gur-Ari, Roberts & Dyer (2018), "Gradient descent happens in a tiny subspace", find about 1 for k = C during
    training. NaN where the gradient is zero or the search did not converge.
    """
    found = spectrum(loss, params, k, "LA", key=key)
    gradient = ravel_pytree(jax.grad(loss)(params))[0]
    gradient = jnp.ldexp(gradient, -exponent(gradient))
    share = jnp.sum(jnp.square(found.eigenvectors.T @ gradient)) / jnp.sum(jnp.square(gradient))
    return jnp.where(jnp.all(found.converged), share, jnp.nan)
