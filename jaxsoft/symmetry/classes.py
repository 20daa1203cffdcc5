"""Sort many points into classes of copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from jaxsoft import checks
from jaxsoft.symmetry import canonical
from jaxsoft.symmetry.alignment import aligned_distance, distance
from jaxsoft.symmetry.canonical import Array, Points
from jaxsoft.symmetry.group import Symmetry

Integers = npt.NDArray[np.int64]
LARGEST = 1e50  # a point with a larger norm is nobody's copy: products of layers would overflow


class Distinct(NamedTuple):
    """label: (n,) the class of each point, from 0 in the order of appearance. representatives: (m,) its first point."""

    label: Integers
    representatives: Integers


class Form(NamedTuple):
    """Points in canonical form. signature: (n, k), never farther apart than the points. key: (n,), equal for copies.
    scale: (n,) what ``tol`` is relative to. distance: (i, j, enough) -> after the best alignment found."""

    signature: Array
    key: Integers
    scale: Array
    distance: Callable[[int, int, float], float]


def distinct(params: object, symmetry: Symmetry, *, tol: float = 1e-6) -> Distinct:
    """Which of n points are the same point up to ``symmetry``.

    A point joins the first class whose representative θ_a it is a copy of, and else begins a class:

        ‖θ_a - g θ_b‖ <= tol · max(1, ‖θ_a‖, ‖θ_b‖)     for the best alignment g that is found,

    in canonical form: last layer centred over the classes, weights into and out of a unit of equal norm ("positive"),
    hidden biases 0 ("orthogonal", "linear"). No class has a point farther from its representative. Copies are always
    found with at most one hidden layer. With more, a layer's units are first told apart by products of the weights from
    the inputs to them and from them to the outputs, and then matched anew, layer after layer, with the others held.
    Copies may be called distinct where such products do not tell unlike units apart (they vanish, or many weights are
    equal); for "positive", where units with no way in or no way out follow each other; for "linear", where a map
    between layers has a condition number near 1/tol. And a unit that is nearly dead, 1e-12 in place of 0, is another
    one than a dead unit under "positive" and "linear".

    "linear" compares what is invariant, and complete: the product of the weights and the value at x = 0, the ranks of
    all partial products, row spaces of W_j ... W_1 and column spaces of W_L ... W_i. The distance is one in the L-th
    root of the product, U S^{1/L} Vᵀ: the copies with the least norm are no farther apart.

    Args:
        params: pytree with n points along the first axis of every leaf: a sequence of layers with ``weight``
            (n, out, in) and ``bias`` (n, out) or None; any pytree for Symmetry("none").
        tol: relative, as above.

    A point that is not finite, or has a norm above 1e50, is a class of its own. Raises ValueError for shapes that do
    not fit, TypeError for what is no layer or no symmetry. Computes in float64: for points in float32, ``tol`` should
    be some 1e-5.

    >>> import jax.numpy as jnp
    >>> from jaxsoft.models import Layer
    >>> first = Layer(jnp.array([[[1.0], [2.0]], [[-2.0], [1.0]]]), None)      # two points, two units
    >>> last = Layer(jnp.array([[[3.0, 4.0]], [[-4.0, 3.0]]]), None)
    >>> [distinct((first, last), Symmetry(units)).label.tolist() for units in ("odd", "permutation")]
    [[0, 0], [0, 1]]
    """
    if not isinstance(symmetry, Symmetry):
        raise TypeError(f"symmetry: expected a Symmetry, got {type(symmetry).__name__}")
    checks.positive("tol", tol)
    if symmetry == Symmetry("none"):
        points: Points = [(leaf.reshape(len(leaf), 1, -1), None) for leaf in _leaves(params)]
    else:
        points = _layers(params, symmetry)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = _norm(points) <= LARGEST
    points = [(_only(finite, w), None if b is None else _only(finite, b)) for w, b in points]
    form = _form(points, symmetry, tol)
    return _classes(form._replace(key=np.where(finite, form.key, -1 - np.arange(len(finite)))), tol)


def _only(mask: npt.NDArray[np.bool_], x: Array) -> Array:
    return np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, 0.0)


def _norm(points: Points) -> Array:
    """‖θ‖ (n,)."""
    parts = [x.reshape(len(x), -1) for layer in points for x in layer if x is not None]
    return np.sqrt(sum((np.sum(np.square(x), axis=1) for x in parts), start=np.zeros(len(parts[0]))))


def _form(points: Points, symmetry: Symmetry, tol: float) -> Form:
    if symmetry.units in ("orthogonal", "linear"):
        points = canonical.without_hidden_biases(points)
    if symmetry.class_shift or symmetry.bias_shift:
        points = canonical.without_shift(points, weights=symmetry.class_shift)
    if symmetry.units == "linear":
        return _linear_form(points, tol)
    if symmetry.units == "positive":
        points = canonical.balanced(points)
    units = "permutation" if symmetry.units == "positive" else symmetry.units

    def apart(i: int, j: int, enough: float) -> float:
        a, b = ([(w[k], None if bias is None else bias[k]) for w, bias in points] for k in (i, j))
        return aligned_distance(a, b, units, enough)

    n = len(points[0][0])
    return Form(_signature(points, units), np.zeros(n, np.int64), np.maximum(1.0, _norm(points)), apart)


def _signature(points: Points, units: str) -> Array:
    """Norms of the rows of (W b), sorted where they are units; singular values of W for orthogonal maps."""
    parts = []
    for m, (weight, bias) in enumerate(points):
        if units == "orthogonal":
            parts += [np.linalg.svd(weight, compute_uv=False), *([] if bias is None else [bias])]
            continue
        squares = np.sum(np.square(weight), axis=2) + (0.0 if bias is None else np.square(bias))
        ordered = units == "none" or m == len(points) - 1
        parts.append(np.sqrt(squares if ordered else np.sort(squares, axis=1)))
    return np.concatenate(parts, axis=1)


def _linear_form(points: Points, tol: float) -> Form:
    depth, constant = len(points), points[-1][1]
    root, values, bases, ranks = canonical.linear_invariants([w for w, _ in points], tol)
    constant = np.zeros((len(root), 1)) if constant is None else constant
    scale = np.maximum(1.0, np.sqrt(depth * np.sum(np.square(values), axis=1) + np.sum(np.square(constant), axis=1)))
    # The copy of least norm is (|Hᵀ|, ..., |Hᵀ|, H) up to rotations, and ‖|A| - |B|‖ <= √2 ‖A - B‖ (Araki & Yamagami
    # 1981, "An inequality for Hilbert-Schmidt norm").
    factor = float(np.sqrt(2 * depth - 1))

    def apart(i: int, j: int, enough: float) -> float:
        spaces = sum(float(np.sum(np.square(b[i] - b[j] @ (b[j].T @ b[i])))) for b in bases)
        d = distance([(factor * root[i], constant[i])], [(factor * root[j], constant[j])])
        return float(np.sqrt(d**2 + 2 * max(scale[i], scale[j]) ** 2 * spaces))

    key = np.unique(ranks, axis=0, return_inverse=True)[1].reshape(-1)
    return Form(np.concatenate([factor * values, constant], axis=1), key, scale, apart)


def _classes(form: Form, tol: float) -> Distinct:
    representatives: list[int] = []
    label = np.empty(len(form.key), np.int64)
    for i in range(len(label)):
        known = np.asarray(representatives, np.int64)
        scale = np.maximum(form.scale[known], form.scale[i])
        apart = np.linalg.norm(form.signature[known] - form.signature[i], axis=1)
        near = (form.key[known] == form.key[i]) & (apart <= (tol + 1e-13) * scale)
        joined = (k for k in np.flatnonzero(near) if form.distance(known[k], i, tol * scale[k]) <= tol * scale[k])
        label[i] = next(joined, len(representatives))
        if label[i] == len(representatives):
            representatives.append(i)
    return Distinct(label, np.asarray(representatives, np.int64))


def _leaves(params: object) -> list[Array]:
    leaves = [_real(f"params (leaf {i})", leaf) for i, leaf in enumerate(jax.tree.leaves(params))]
    counts = sorted({len(leaf) if leaf.ndim else 0 for leaf in leaves})
    if len(counts) != 1 or counts == [0]:
        raise ValueError(f"params: expected the same number of points in every leaf, at least 1, got {counts}")
    return leaves


def _layers(params: object, symmetry: Symmetry) -> Points:
    if not isinstance(params, Sequence) or not params or not all(hasattr(x, "weight") for x in params):
        raise TypeError(f"params: expected a sequence of layers with weight and bias, got {type(params).__name__}")
    points: Points = []
    for i, layer in enumerate(params):
        weight = _real(f"params[{i}].weight", layer.weight)
        if weight.ndim != 3 or not len(weight):
            raise ValueError(f"params[{i}].weight: expected shape (n, out, in), got {weight.shape}")
        before = points[-1][0].shape[:2] if points else (len(weight), weight.shape[2])
        if (len(weight), weight.shape[2]) != before:
            raise ValueError(f"params[{i}].weight: expected shape ({before[0]}, out, {before[1]}), got {weight.shape}")
        bias = None if layer.bias is None else _real(f"params[{i}].bias", layer.bias)
        if bias is not None and bias.shape != weight.shape[:2]:
            raise ValueError(f"params[{i}].bias: expected shape {weight.shape[:2]}, got {bias.shape}")
        points.append((weight, bias))
    if symmetry.units in ("orthogonal", "linear") and len({bias is None for _, bias in points}) > 1:
        raise ValueError(f"params: expected a bias in every layer or in none for {symmetry.units!r}, got some")
    return points


def _real(argument: str, x: object) -> Array:
    array = np.asarray(x)
    if array.dtype.kind not in "fiu" and str(array.dtype) != "bfloat16":
        raise TypeError(f"{argument}: expected an array of real numbers, got {array.dtype}")
    return array.astype(np.float64)
