"""Cross-entropy of a softmax, with its gradient and Hessian in the logits, all with full relative accuracy.

For one example with logits z (C,), p = softmax(z), q = 1 - p, labels y (C,) and Y = Σ y:

    L       = -Σ_k y_k log p_k
    ∂L/∂z_k = Y p_k - y_k = p_k Σ_{j≠k} y_j - y_k Σ_{j≠k} p_j          (the lecture's ŷ - y, where Y = 1)
    ∂²L/∂z² = Y (diag p - p pᵀ)

The right-hand form of the gradient has no cancellation at the label. Where the label leads by 20, ŷ - y in float32 is
exactly 0 there, while the other components still add up to 2e-9.

Labels are integers (...,) or probabilities (..., C). Every function here takes, but for ``cross_entropy_and_grad``,
which is for training and takes the mask alone:

    weights (C,)       class weights: y_k becomes w_k y_k, so that an example of class k counts w_k times
    smoothing α        y becomes (1 - α) y + α / C, before the weights; α in [0, 1)
    mask (...,)        booleans: where False, the example gives 0 everywhere, whatever its logits and label are

A logit of -inf excludes its class (see ``jaxsoft.softmax``). A share of the label on an excluded class (smoothing puts
one on every class) gives an infinite loss, and the gradient ŷ - y all the same. Without a share there the class counts
as absent, and no derivative is NaN or infinite.

Labels whose values are known are checked to lie in [0, C). Where jax is tracing them they have no value yet, and one
outside gives NaN: a loss of 0 would pass unseen.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jaxsoft import checks
from jaxsoft.softmax import add, as_logits, divide, exponentiate, jacobian, jacobian_product, largest, probabilities

FEW, TOGETHER = 4, 16  # with so few classes the logarithm takes long: it is taken for 16 examples in one, for training

Maybe = ArrayLike | None
Number = float | jax.Array
Arrays = tuple[jax.Array, jax.Array, jax.Array]
Tangent = jax.Array | SymbolicZero


class _Examples(NamedTuple):
    """Checked arguments: logits z, label shares y, the sums of the other shares Σ_{j≠k} y_j, each (..., C); the weight
    (...,) of each example in the mean, None where all weigh the same."""

    z: jax.Array
    y: jax.Array
    others: jax.Array
    weight: jax.Array | None


@jax.custom_jvp
def _sum_of_others(y: jax.Array) -> jax.Array:
    """Σ_{j≠k} y_j for y >= 0, without cancellation where one y_k holds more than half."""
    total = jnp.sum(y, axis=-1, keepdims=True)
    large = y > total / 2
    return jnp.where(large, jnp.sum(jnp.where(large, 0, y), axis=-1, keepdims=True), total - y)


@_sum_of_others.defjvp
def _sum_of_others_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (y,), (dy,) = primals, tangents
    return _sum_of_others(y), jnp.sum(dy, axis=-1, keepdims=True) - dy


def _evaluate(z: jax.Array, y: jax.Array) -> Arrays:
    """L = (Σ y) log(1 + s) + Σ_k y_k (m - z_k) with 0 log 0 = 0, (...,), and p and q, in one pass over the classes."""
    gap, e = exponentiate(z)
    s, total, distance = add(e, y, y * jnp.where(y == 0, 0, -gap))
    loss = total * jnp.log1p(s) + distance
    return jnp.squeeze(loss, -1), *divide(e, s)


@jax.custom_jvp
def _loss(z: jax.Array, y: jax.Array, others: jax.Array) -> jax.Array:
    """L = -Σ_k y_k log p_k (...,); ``others``, Σ_{j≠k} y_j, is only handed on to the gradient."""
    del others
    return _evaluate(z, y)[0]


def _loss_jvp(primals: Arrays, tangents: tuple[Tangent, Tangent, Tangent]) -> tuple[jax.Array, jax.Array]:
    (z, y, _), (dz, dy, _) = primals, tangents
    tangent = jnp.zeros(z.shape, z.dtype)
    if not isinstance(dz, SymbolicZero):
        tangent = tangent + _gradient(*primals) * dz
    if not isinstance(dy, SymbolicZero):
        log_p = probabilities(z).log_p
        absent = jnp.isneginf(log_p) & (y == 0)  # an excluded class without a share stays out of the loss
        tangent = tangent - dy * jnp.where(absent, 0, log_p)
    return _loss(*primals), jnp.sum(tangent, axis=-1)


# Symbolic zeros, because integer labels have no tangent: then neither its product with log p nor a zero times infinity
# is ever formed.
_loss.defjvp(_loss_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _gradient(z: jax.Array, y: jax.Array, others: jax.Array) -> jax.Array:
    _, p, q = _evaluate(z, y)
    return _difference(p, q, y, others)


def _difference(p: jax.Array, q: jax.Array, y: jax.Array, others: jax.Array) -> jax.Array:
    """The lecture's ŷ - y, without cancellation at the label."""
    return p * others - y * q


@_gradient.defjvp
def _gradient_jvp(primals: Arrays, tangents: Arrays) -> tuple[jax.Array, jax.Array]:
    (z, y, _), (dz, dy, dothers) = primals, tangents
    p, q, _ = probabilities(z)
    hessian_product = jnp.sum(y, axis=-1, keepdims=True) * jacobian_product(z, dz)
    return _gradient(*primals), hessian_product + p * dothers - q * dy


def _checked_labels(labels: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """``labels`` as an array whose shape and type fit logits of this shape."""
    array = jnp.asarray(labels)
    is_integer, is_float = (jnp.issubdtype(array.dtype, kind) for kind in (jnp.integer, jnp.floating))
    if (is_integer and array.shape == shape[:-1]) or (is_float and array.shape == shape):
        return array
    error = TypeError if array.shape in (shape, shape[:-1]) else ValueError
    raise error(
        f"labels: expected integers of shape {shape[:-1]} or probabilities of shape {shape}, "
        f"got {array.dtype} of shape {array.shape}"
    )


def _check_range(labels: ArrayLike, classes: int, mask: Maybe) -> None:
    """Raise for a known integer label outside [0, C) that no mask hides."""
    if checks.traced(labels) or checks.traced(mask) or not getattr(labels, "is_fully_addressable", True):
        return
    values = np.asarray(labels)
    wrong = (values < 0) | (values >= classes)
    if mask is not None:
        wrong &= np.asarray(mask)
    if wrong.any():
        index = tuple(np.argwhere(wrong)[0].tolist())
        place = "" if index == () else f" at index {index[0] if len(index) == 1 else index}"
        raise ValueError(f"labels: expected values in [0, {classes}), got {values[index]}{place}")


def _checked_mask(mask: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    array = jnp.asarray(mask)
    if array.dtype != jnp.bool_:
        raise TypeError(f"mask: expected booleans of shape {shape}, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"mask: expected booleans of shape {shape}, got shape {array.shape}")
    return array


def _checked_weights(weights: ArrayLike, classes: int) -> jax.Array:
    array = jnp.asarray(weights)
    if array.shape != (classes,):
        raise ValueError(f"weights: expected one number for each class, shape ({classes},), got shape {array.shape}")
    if not checks.traced(weights):
        for index, value in enumerate(np.asarray(weights).tolist()):
            checks.non_negative(f"weights[{index}]", value)
    return array


def _one_hot(labels: jax.Array, classes: int, dtype: jnp.dtype, axis: int = -1) -> jax.Array:
    """One-hot along this axis; NaN for a label outside [0, C), which would otherwise pass as a loss of 0."""
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels  # so that C fits into the type
    valid = (labels >= 0) & (labels < classes)
    return jnp.where(jnp.expand_dims(valid, axis), jax.nn.one_hot(labels, classes, dtype=dtype, axis=axis), jnp.nan)


def _examples(logits: ArrayLike, labels: ArrayLike, weights: Maybe, smoothing: Number, mask: Maybe) -> _Examples:
    """Check all arguments, and bring labels, weights, smoothing and mask into one form."""
    z = as_logits("logits", logits)
    classes = z.shape[-1]
    given = _checked_labels(labels, z.shape)
    keep = None if mask is None else _checked_mask(mask, z.shape[:-1])
    checks.fraction("smoothing", smoothing)
    if jnp.issubdtype(given.dtype, jnp.integer):
        _check_range(labels, classes, mask)
        y = _one_hot(given, classes, z.dtype)
        others = 1 - y
    else:
        y = given.astype(z.dtype)
        others = _sum_of_others(y)
    w = None if weights is None else jnp.broadcast_to(_checked_weights(weights, classes).astype(z.dtype), z.shape)
    weight = None if w is None else jnp.sum(w * y, axis=-1)
    if not isinstance(smoothing, (int, float)) or smoothing != 0:
        alpha = jnp.asarray(smoothing, z.dtype)
        y = (1 - alpha) * y + alpha / classes
        others = (1 - alpha) * others + alpha * (classes - 1) / classes
    if w is not None:
        y = w * y
        others = _sum_of_others(y)
    if keep is not None:
        # A hidden example's logits and labels are replaced before anything is computed from them: a NaN among them
        # would come back through the derivative of a ``where`` that only hides the loss.
        shown = keep[..., None]
        z, y, others = (jnp.where(shown, array, 0) for array in (z, y, others))
        weight = jnp.where(keep, 1 if weight is None else weight, 0).astype(z.dtype)
    return _Examples(z, y, others, weight)


def cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, weights: Maybe = None, smoothing: Number = 0.0, mask: Maybe = None
) -> jax.Array:
    """The loss L = -Σ_k y_k log p_k of each example, (...,), in nats, for logits (..., C).

    Labels are integers (...,) or probabilities (..., C); ``weights``, ``smoothing`` and ``mask`` as in the module's
    docstring. For a label at the top this is log(1 + Σ_{j≠y} e^{z_j - z_y}), relatively accurate at any gap, as are its
    first and second derivatives by jax, in both modes. Differentiable in probabilities too: ∂L/∂y_k = -log p_k, taken
    as 0 for an excluded class without a share.

    Raises TypeError for integer logits, labels or masks of another type; ValueError for shapes that do not fit, labels
    outside [0, C), negative weights and a smoothing outside [0, 1).

    >>> round(float(cross_entropy(jnp.log(jnp.array([0.3, 0.2, 0.1, 0.4])), 1)), 4)
    1.6094
    """
    z, y, others, _ = _examples(logits, labels, weights, smoothing, mask)
    return _loss(z, y, others)


def cross_entropy_grad(
    logits: ArrayLike, labels: ArrayLike, *, weights: Maybe = None, smoothing: Number = 0.0, mask: Maybe = None
) -> jax.Array:
    """The gradient ∂L/∂z of each example's ``cross_entropy`` in its own logits, (..., C): the lecture's ŷ - y.

        ∂L/∂z_k = p_k Σ_{j≠k} y_j - y_k Σ_{j≠k} p_j

    Every component is relatively accurate, the label's too. Takes and raises what ``cross_entropy`` does.

    >>> gradient = cross_entropy_grad(jnp.log(jnp.array([0.3, 0.2, 0.1, 0.4])), 1)
    >>> [round(float(g), 4) for g in gradient]
    [0.3, -0.8, 0.1, 0.4]
    """
    z, y, others, _ = _examples(logits, labels, weights, smoothing, mask)
    return _gradient(z, y, others)


def cross_entropy_and_grad(
    logits: ArrayLike, labels: ArrayLike, mask: Maybe = None, share: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """``share`` times the sum of ``cross_entropy`` over examples in columns, and its gradient (C, n), for training.

        L = share Σ_i L_i,     ∂L/∂z = share (ŷ - y)

    Logits are columns (C, n), as in the lecture, labels integers (n,), and the mask (n,) as in the module's docstring.
    A logarithm is taken for several examples at a time, as log(1 + a) + log(1 + b) = log(1 + a + b + a b), where all
    terms are positive and none is lost. Raises what ``cross_entropy`` does.

    >>> loss, gradient = cross_entropy_and_grad(jnp.log(jnp.array([[0.3], [0.2], [0.1], [0.4]])), jnp.array([1]))
    >>> round(float(loss), 4), [round(float(g), 4) for g in gradient[:, 0]]
    (1.6094, [0.3, -0.8, 0.1, 0.4])
    """
    z = as_logits("logits", logits)
    given = jnp.asarray(labels)
    if z.ndim != 2 or given.shape != z.shape[1:] or not jnp.issubdtype(given.dtype, jnp.integer):
        raise ValueError(
            "labels: expected integers of shape (n,) for logits in columns (C, n), "
            f"got {given.dtype} of shape {given.shape} for logits of shape {z.shape}"
        )
    shown = None if mask is None else _checked_mask(mask, given.shape)
    _check_range(labels, len(z), mask)
    return _columns(z, _one_hot(given, len(z), z.dtype, axis=0), shown, share)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _columns(z: jax.Array, y: jax.Array, shown: jax.Array | None, share: float) -> tuple[jax.Array, jax.Array]:
    """The loss of columns with one label each, summed, and ∂L/∂z (C, n)."""
    _, e = exponentiate(z, axis=0)
    (s,) = add(e, axis=0)
    distance = largest(z, axis=0) - largest(jnp.where(y == 0, -jnp.inf, y * z), axis=0)
    distance += 0 * y[:1]  # NaN for a label that is none: a maximum does not always keep it
    gradient = share * _difference(*divide(e, s), y, 1 - y)
    if shown is not None:
        s, distance, gradient = (jnp.where(shown[None], array, 0) for array in (s, distance, gradient))
    return _sum_of_losses(jnp.squeeze(s, 0), jnp.squeeze(distance, 0), len(z), share), gradient


@_columns.defjvp
def _columns_jvp(
    share: float,
    primals: tuple[jax.Array, jax.Array, jax.Array | None],
    tangents: tuple[jax.Array, jax.Array, object],
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    (z, _, shown), (dz, *_) = primals, tangents
    loss, gradient = _columns(*primals, share)
    if shown is not None:
        z, dz = (jnp.where(shown[None], array, 0) for array in (z, dz))
    return (loss, gradient), (jnp.sum(gradient * dz), share * jacobian_product(z.T, dz.T).T)


def _sum_of_losses(s: jax.Array, distance: jax.Array, classes: int, share: float) -> jax.Array:
    """share Σ log(1 + s_i) + distance_i over examples (n,), with 0 <= s < ``classes``."""
    whole = len(s) // TOGETHER * TOGETHER if classes <= FEW and s.dtype.itemsize >= 4 else 0
    each = [jnp.log1p(s[whole:]) + distance[whole:]]
    if whole:
        factors, distances = (jnp.split(x[:whole], TOGETHER) for x in (s, distance))
        product = functools.reduce(lambda a, b: a + b + a * b, factors)
        each.append(jnp.log1p(product) + functools.reduce(jnp.add, distances))
    # As products: fused into a sum, the logarithms would be taken one by one.
    return functools.reduce(jnp.add, [jnp.full_like(x, share) @ x for x in each if len(x) or not whole])


def cross_entropy_hessian(
    logits: ArrayLike, labels: ArrayLike, *, weights: Maybe = None, smoothing: Number = 0.0, mask: Maybe = None
) -> jax.Array:
    """The Hessian (Σ y) (diag p - p pᵀ) of each example's ``cross_entropy`` in its own logits, (..., C, C).

    It does not depend on which class is the label, and is positive semidefinite: at most ½ (I - 11ᵀ/C) for labels that
    sum to 1 (Böhning 1992). Takes and raises what ``cross_entropy`` does.
    """
    z, y, _, _ = _examples(logits, labels, weights, smoothing, mask)
    return jnp.sum(y, axis=-1)[..., None, None] * jacobian(z)


def cross_entropy_hvp(
    logits: ArrayLike,
    labels: ArrayLike,
    t: ArrayLike,
    *,
    weights: Maybe = None,
    smoothing: Number = 0.0,
    mask: Maybe = None,
) -> jax.Array:
    """The product of ``cross_entropy_hessian`` with a direction t (..., C), (..., C), in O(C) operations per example.

        (H t)_k = (Σ y) p_k Σ_j p_j (t_k - t_j)

    Takes and raises what ``cross_entropy`` does, and ValueError where t has not the shape of the logits.
    """
    z, y, _, _ = _examples(logits, labels, weights, smoothing, mask)
    return jnp.sum(y, axis=-1, keepdims=True) * jacobian_product(z, t)


def cost(
    logits: ArrayLike, labels: ArrayLike, *, weights: Maybe = None, smoothing: Number = 0.0, mask: Maybe = None
) -> jax.Array:
    """The mean of ``cross_entropy`` over all examples that the mask shows, a scalar in nats; 0 if it shows none.

        cost = Σ_i L_i / Σ_i ω_i

    ω_i = Σ_k w_k y_ik is the class weight of example i, before smoothing; 1 without ``weights``. So this is a weighted
    mean: weights that are all equal, for labels that sum to 1, change nothing. Takes and raises what
    ``cross_entropy`` does.
    """
    z, y, others, weight = _examples(logits, labels, weights, smoothing, mask)
    example_losses = _loss(z, y, others)
    # Half-precision sums overflow or stall at a few thousand examples.
    wide = jnp.promote_types(z.dtype, jnp.float32)
    total = max(example_losses.size, 1) if weight is None else jnp.sum(weight, dtype=wide)
    return (jnp.sum(example_losses, dtype=wide) / jnp.where(total == 0, 1, total)).astype(z.dtype)


def accuracy(logits: ArrayLike, labels: ArrayLike, *, mask: Maybe = None) -> jax.Array:
    """The share of examples whose largest logit is the label's (or the largest probability's), a scalar in [0, 1].

    Of equal logits the first counts, as in ``hardmax``. The mean is over what the mask shows; 0 if it shows none.
    Takes and raises what ``cross_entropy`` does.

    >>> float(accuracy(jnp.array([[5.0, 2.0], [1.0, 3.0]]), jnp.array([0, 0])))
    0.5
    """
    z = as_logits("logits", logits)
    target = _checked_labels(labels, z.shape)
    if jnp.issubdtype(target.dtype, jnp.integer):
        _check_range(labels, z.shape[-1], mask)
    else:
        target = jnp.argmax(target, axis=-1)
    shown = jnp.ones(z.shape[:-1], bool) if mask is None else _checked_mask(mask, z.shape[:-1])
    hits = jnp.sum((jnp.argmax(z, axis=-1) == target) & shown)
    return (hits / jnp.maximum(jnp.sum(shown), 1)).astype(jnp.promote_types(z.dtype, jnp.float32))
