"""Hessians of any loss: products, dense matrices, the blocks of the layers, and the Gauss-Newton part.

A loss is ``loss(params) -> scalar`` of any pytree of floats. Vectors and matrices are in the flat coordinates of
``jax.tree.leaves``: P numbers, leaf after leaf.
"""

from __future__ import annotations

import functools
import math
import numbers
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxsoft.symmetry import Symmetry

Params = Any
Loss = Callable[[Params], jax.Array]
Flat = Callable[[jax.Array], jax.Array]

BLOCK_BYTES = 2**27  # what the tangents of one block of Hessian columns may take


class Preconditioner(NamedTuple):
    """M ≈ ∇²L, symmetric and positive definite. factors: params -> arrays. apply: (factors, v (P,)) -> M⁻¹ v."""

    factors: Callable[[Params], jax.Array]
    apply: Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True, eq=False)
class Composite:
    """A loss that is a cost of outputs, L(θ) = cost(outputs(θ)) + penalty(θ), and may know its own curvature.

    outputs: params -> (n, C). cost: (n, C) -> scalar. penalty: params -> scalar, or None.
    closed_form: (params, residual) -> (P, P), the Hessian for residual = True, its Gauss-Newton part (and the penalty)
    for False; None where there is none. null: params -> (P, k), directions of any length, dependent or not, along which
    the loss is constant or its Hessian vanishes by symmetry. symmetry: the maps of params that leave the loss alone,
    where known. backward: params -> (L, ∇L), a backward pass of its own, quicker than the one that jax derives.
    preconditioner: for systems with its Hessian.

    It is called like any loss; ``hessian``, ``gauss_newton``, ``inertia`` and ``value_and_grad`` use what it knows.
    """

    outputs: Callable[[Params], jax.Array]
    cost: Callable[[jax.Array], jax.Array]
    penalty: Loss | None = None
    closed_form: Callable[[Params, bool], jax.Array] | None = None
    null: Callable[[Params], jax.Array] | None = None
    symmetry: Symmetry | None = None
    backward: Callable[[Params], tuple[jax.Array, Params]] | None = None
    preconditioner: Preconditioner | None = None

    def __call__(self, params: Params) -> jax.Array:
        cost = self.cost(self.outputs(params))
        return cost if self.penalty is None else cost + self.penalty(params)

    @functools.cached_property
    def dense(self) -> Callable[[Params], tuple[jax.Array, jax.Array | None]]:
        """params -> the Hessian and the directions that are flat by symmetry, compiled once."""
        return jax.jit(lambda params: (hessian(self, params), None if self.null is None else self.null(params)))


def value_and_grad(loss: Loss, params: Params) -> tuple[jax.Array, Params]:
    """L(θ) and ∇L(θ): by the loss's own backward pass if it is a ``Composite`` that has one, else by jax."""
    if isinstance(loss, Composite) and loss.backward is not None:
        return loss.backward(params)
    return jax.value_and_grad(loss)(params)


def check(loss: Loss, params: Params, argument: str = "params") -> tuple[int, jnp.dtype]:
    """The number of parameters P and the type of their flat vector; raises for what has no Hessian."""
    return examine(loss, params, argument)[:2]


def examine(loss: Loss, params: Params, argument: str = "params") -> tuple[int, jnp.dtype, jnp.dtype]:
    """``check``, and the least precise of the types of parameters and loss: its eps is what second derivatives are good
    to. A cast to less that the loss hides inside is not seen."""
    if not callable(loss):
        raise TypeError(f"loss: expected a function of params, got {type(loss).__name__}")
    leaves = jax.tree.leaves(params)
    for leaf in leaves:
        got = (
            jnp.result_type(leaf) if hasattr(leaf, "dtype") or isinstance(leaf, numbers.Number) else type(leaf).__name__
        )
        if got not in (jnp.float32, jnp.float64):
            raise TypeError(f"{argument}: expected arrays of floats, got {got}")
    size = sum(math.prod(jnp.shape(leaf)) for leaf in leaves)
    if size == 0:
        raise ValueError(f"{argument}: expected at least one number, got none")
    value = jax.eval_shape(loss, params)
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        got = f"{value.dtype} of shape {value.shape}" if hasattr(value, "shape") else type(value).__name__
        raise TypeError(f"loss: expected one real number, got {got}")
    types = [jnp.result_type(leaf) for leaf in leaves]
    worst = max([*types, value.dtype], key=lambda dtype: float(jnp.finfo(dtype).eps))
    return size, jnp.result_type(*types), worst


def check_memory(size: int, dtype: jnp.dtype, columns: int, instead: str) -> None:
    """Raise MemoryError if ``columns`` vectors (P,) exceed the machine's memory."""
    needed = size * columns * jnp.dtype(dtype).itemsize
    if needed > memory_bytes():
        raise MemoryError(
            f"params: expected what fits into memory, {size} parameters need {needed / 2**30:.1f} GiB "
            f"of {memory_bytes() / 2**30:.1f} GiB: {instead}"
        )


def memory_bytes() -> int:
    """The machine's physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def flatten_loss(loss: Loss, params: Params) -> tuple[Flat, jax.Array]:
    """The loss as a function of the flat vector (P,), and that vector."""
    theta, unravel = ravel_pytree(params)
    return lambda t: loss(unravel(t)), theta


def product(loss: Loss, params: Params) -> Flat:
    """``v -> H v`` in flat coordinates, v (P,): forward over reverse."""
    flat, theta = flatten_loss(loss, params)
    return lambda v: jax.jvp(jax.grad(flat), (theta,), (v,))[1]


def products(loss: Loss, params: Params) -> Flat:
    """``V -> H V`` for many directions at once, V (P, k)."""
    return jax.vmap(product(loss, params), in_axes=1, out_axes=1)


def hvp(loss: Loss, params: Params, v: Params) -> Params:
    """The Hessian-vector product H v = d/dε ∇L(θ + ε v) at ε = 0, a pytree like ``params``, as is ``v``.

    Forward over reverse: about four evaluations of the loss, and no matrix (Pearlmutter 1994, "Fast exact
    multiplication by the Hessian"). Raises TypeError for a loss that is not one real number or parameters that are not
    floats, ValueError where ``v`` is not a pytree like ``params``.
    """
    check(loss, params)
    tangent = _tangent(v, params)
    with jax.default_matmul_precision("highest"):
        return jax.jvp(jax.grad(loss), (params,), (tangent,))[1]


def _tangent(v: Params, params: Params) -> Params:
    """``v`` in the types of ``params``."""
    like, shapes = jax.tree.structure(params), [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
    if jax.tree.structure(v) != like or [jnp.shape(leaf) for leaf in jax.tree.leaves(v)] != shapes:
        raise ValueError("v: expected a pytree like params, with the same shapes")
    return jax.tree.map(lambda x, p: jnp.asarray(x, jnp.result_type(p)), v, params)


def hessian(loss: Loss, params: Params) -> jax.Array:
    """The dense Hessian H_ij = ∂²L/∂θ_i∂θ_j, (P, P), exactly symmetric.

    A ``Composite`` with a closed form uses it; any other loss takes P Hessian-vector products, in blocks. Raises
    TypeError for a loss that is not one real number or parameters that are not floats, MemoryError for a matrix that
    does not fit into memory.
    """
    size, dtype = check(loss, params)
    check_memory(size, dtype, 2 * size, "use hvp, spectrum, or inertia with method='lanczos'")
    with jax.default_matmul_precision("highest"):
        if isinstance(loss, Composite) and loss.closed_form is not None:
            return loss.closed_form(params, True).astype(dtype)
        return _from_products(product(loss, params), size, dtype)


def _from_products(apply: Flat, size: int, dtype: jnp.dtype) -> jax.Array:
    """The symmetric matrix of a linear map, column block after column block."""
    width = max(1, min(size, BLOCK_BYTES // (64 * size * jnp.dtype(dtype).itemsize)))
    blocks = -(-size // width)
    many = jax.vmap(apply)

    def rows(block: jax.Array) -> jax.Array:
        return many(jax.nn.one_hot(block * width + jnp.arange(width), size, dtype=dtype))

    matrix = jax.lax.map(rows, jnp.arange(blocks)).reshape(blocks * width, size)[:size]
    return (matrix + matrix.T) / 2


def gauss_newton_product(loss: Composite, params: Params, v: Params) -> Params:
    """The product G v with G = Jᵀ (∇² cost) J, J the Jacobian of the outputs; a pytree like ``params``.

    For the cross-entropy of a softmax G is also the Fisher information of the model on these inputs, and positive
    semidefinite; H - G is the residual term Σ (ŷ - y) ∇²z (Martens 2020, "New insights and perspectives on the natural
    gradient method"). Raises TypeError for a loss that is not a ``Composite``, ValueError where ``v`` is not a pytree
    like ``params``.
    """
    _check_composite(loss)
    check(loss, params)
    tangent = _tangent(v, params)
    with jax.default_matmul_precision("highest"):
        return _gauss_newton(loss, params, tangent)


def gauss_newton(loss: Composite, params: Params) -> jax.Array:
    """The dense Gauss-Newton matrix G of ``gauss_newton_product``, (P, P); with a penalty, plus its Hessian."""
    _check_composite(loss)
    size, dtype = check(loss, params)
    check_memory(size, dtype, 2 * size, "use gauss_newton_product")
    with jax.default_matmul_precision("highest"):
        if loss.closed_form is not None:
            return loss.closed_form(params, False).astype(dtype)
        _, unravel = ravel_pytree(params)
        return _from_products(lambda v: ravel_pytree(_gauss_newton(loss, params, unravel(v)))[0], size, dtype)


def _gauss_newton(loss: Composite, params: Params, v: Params) -> Params:
    outputs, moved = jax.jvp(loss.outputs, (params,), (v,))
    curved = jax.jvp(jax.grad(loss.cost), (outputs,), (moved,))[1]
    total = jax.vjp(loss.outputs, params)[1](curved)[0]
    if loss.penalty is None:
        return total
    return jax.tree.map(jnp.add, total, jax.jvp(jax.grad(loss.penalty), (params,), (v,))[1])


def _check_composite(loss: Loss) -> None:
    if not isinstance(loss, Composite):
        raise TypeError(f"loss: expected a Composite (outputs and their cost), got {type(loss).__name__}")


def layer_blocks(loss: Loss, params: Params) -> dict[str, jax.Array]:
    """The diagonal blocks of the Hessian, one for each layer: the second derivatives with the other layers held.

    A layer is a child of the top of ``params``: an entry of a tuple or a dict, named by its path. One without a number
    has no block.
    """
    check(loss, params)
    children, structure = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: x is not params)
    values = [child for _, child in children]
    blocks = {}
    for i, (path, child) in enumerate(children):

        def alone(layer: Params, i: int = i) -> jax.Array:
            return loss(jax.tree.unflatten(structure, [*values[:i], layer, *values[i + 1 :]]))

        if any(jnp.size(leaf) for leaf in jax.tree.leaves(child)):
            blocks[jax.tree_util.keystr(path, simple=True, separator=".")] = hessian(alone, child)
    return blocks
