"""Planted copies are found, planted near-misses are kept apart, and what is called a symmetry leaves the loss alone."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoft import problem
from jaxsoft.data import iris
from jaxsoft.models import Layer, mlp
from jaxsoft.symmetry import Symmetry, distinct
from jaxsoft.symmetry.alignment import aligned_distance
from jaxsoft.symmetry.canonical import balanced, linear_invariants

UNITS = ("none", "permutation", "odd", "positive", "orthogonal", "linear")
GROUPS = {"tanh": "odd", "erf": "odd", "relu": "positive", "gelu": "permutation", "linear": "linear"}
NETS = [(4, 5, 3), (4, 5, 4, 3), (3, 4, 5, 4, 3)]
TOL = 1e-6


def at_random(rng, sizes, bias=True):
    """Layers of one point, with biases that are not zero."""
    return [Layer(rng.normal(size=(o, i)), rng.normal(size=o) if bias else None) for i, o in itertools.pairwise(sizes)]


def unit_map(rng, units, h):
    """A random element of the group of one hidden layer."""
    order = np.eye(h)[rng.permutation(h)]
    if units == "linear":
        return (unit_map(rng, "orthogonal", h) * np.exp(rng.normal(size=h))) @ unit_map(rng, "orthogonal", h)
    if units == "orthogonal":
        return np.linalg.qr(rng.normal(size=(h, h)))[0]
    factor = {"odd": rng.choice([-1.0, 1.0], h), "positive": np.exp(rng.normal(size=h))}.get(units, np.ones(h))
    return order * factor


def copy_of(rng, point, symmetry):
    """The image of a point under a random element of the group."""
    layers = list(point)
    for m in range(len(layers) - 1) if symmetry.units != "none" else []:
        (w, b), (v, c) = layers[m], layers[m + 1]
        x = unit_map(rng, symmetry.units, len(w))
        back, moved = v @ np.linalg.inv(x), None if b is None else x @ b
        if b is not None and symmetry.units in ("linear", "orthogonal"):
            t = rng.normal(size=len(w))
            moved, c = moved + t, c - back @ t
        layers[m], layers[m + 1] = Layer(x @ w, moved), Layer(back, c)
    w, b = layers[-1]
    if symmetry.class_shift:
        w = w + rng.normal(size=(1, w.shape[1]))
    if b is not None and (symmetry.class_shift or symmetry.bias_shift):
        b = b + rng.normal()
    return [*layers[:-1], Layer(w, b)]


def nudged(rng, point, size):
    """A step of a given length relative to max(1, ‖θ‖), in a random direction."""
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), point)
    factor = size * max(1, norm(point)) / norm(direction)
    return jax.tree.map(lambda x, d: x + factor * d, point, direction)


def norm(point):
    return np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(point)))


def stack(points):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *points)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", GROUPS)
def test_a_symmetry_leaves_the_loss_alone(x64, activation, bias):
    rng, sizes = np.random.default_rng(0), (4, 5, 4, 3)
    loss = problem.classification(mlp(sizes, activation=activation, bias=bias), iris()).loss
    assert loss.symmetry == Symmetry(GROUPS[activation], class_shift=True)
    point = at_random(rng, sizes, bias)
    points = stack([point, *(copy_of(rng, point, loss.symmetry) for _ in range(5))])
    values = jax.jit(jax.vmap(loss))(tuple(points))
    np.testing.assert_allclose(values, values[0], rtol=1e-11)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [*NETS, (4, 6, 6, 5)])
@pytest.mark.parametrize("units", UNITS)
def test_planted_copies_are_found(units, sizes, bias):
    rng, symmetry = np.random.default_rng(1), Symmetry(units, class_shift=True)
    origins = [at_random(rng, sizes, bias) for _ in range(6)]
    truth = rng.integers(6, size=100)
    found = distinct(stack([copy_of(rng, origins[k], symmetry) for k in truth]), symmetry)
    np.testing.assert_array_equal(truth, truth[found.representatives][found.label])
    assert len(found.representatives) == 6


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", GROUPS)
def test_a_penalty_leaves_a_smaller_group(x64, activation, bias):
    rng = np.random.default_rng(0)
    model, sizes = mlp((4, 5, 3), activation=activation, bias=bias), (4, 5, 3)
    loss = problem.classification(model, iris(), l2=0.1).loss
    units = {"positive": "permutation", "linear": "orthogonal"}.get(GROUPS[activation], GROUPS[activation])
    assert loss.symmetry == Symmetry(units, class_shift=False, bias_shift=True)
    point = at_random(rng, sizes, bias)
    copies = [copy_of(rng, point, loss.symmetry) for _ in range(10)]
    value = jax.jit(lambda points: jax.vmap(loss)(tuple(points)))
    values = value(stack([point, *copies]))
    np.testing.assert_allclose(values, values[0], rtol=1e-12)
    assert distinct(stack([point, *copies]), loss.symmetry).label.tolist() == [0] * 11
    free = problem.classification(model, iris()).loss.symmetry
    moved = [copy_of(rng, point, free) for _ in range(10)]
    assert (abs(value(stack(moved)) - values[0]) > 1e-3).all()
    assert distinct(stack([point, *moved]), loss.symmetry).label.tolist() == list(range(11))


@pytest.mark.parametrize("sizes", NETS)
@pytest.mark.parametrize("units", ["none", "permutation", "odd", "positive", "linear"])
def test_near_misses_stay_apart_and_the_tolerance_is_kept(units, sizes):
    """A random step has most of its length across the group's orbit: some 15 of 50 to 100 dimensions are along it."""
    rng = np.random.default_rng(1)
    symmetry = Symmetry(units, class_shift=units != "none")
    for trial in range(5):
        point = at_random(rng, sizes)
        if units == "positive":  # steps have a length at the least norm
            point = [Layer(w[0], b[0]) for w, b in balanced([(w[None], b[None]) for w, b in point])]
        misses = [copy_of(rng, nudged(rng, point, 10 * TOL), symmetry) for _ in range(3)]
        assert distinct(stack([point, *misses]), symmetry, tol=TOL).label.tolist() == [0, 1, 2, 3], trial
        near = [copy_of(rng, nudged(rng, point, 0.1 * TOL), symmetry) for _ in range(3)]
        assert distinct(stack([point, *near]), symmetry, tol=TOL).label.tolist() == [0, 0, 0, 0], trial


@pytest.mark.parametrize("units", ["permutation", "odd"])
def test_the_distance_with_one_hidden_layer_is_the_least_of_all(units):
    """Against every signed permutation of three units."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        a, b = at_random(rng, (2, 3, 2)), at_random(rng, (2, 3, 2))
        distances = []
        for order in itertools.permutations(range(3)):
            for signs in itertools.product([1, -1] if units == "odd" else [1], repeat=3):
                t = np.eye(3)[list(order)] * np.array(signs)
                image = [Layer(t @ b[0].weight, t @ b[0].bias), Layer(b[1].weight @ t.T, b[1].bias)]
                distances.append(norm(jax.tree.map(np.subtract, a, image)))
        np.testing.assert_allclose(aligned_distance(a, b, units, 0.0), min(distances), rtol=1e-12)


@pytest.mark.parametrize("units", ["permutation", "odd", "positive"])
@pytest.mark.parametrize("sizes", NETS)
def test_duplicate_and_dead_units(units, sizes):
    """In the last hidden layer: two units alike but for the outgoing weights, two alike in all, a dead one, and one
    without outgoing weights. In the first: two alike but for the incoming weights, two but for the outgoing ones."""
    rng = np.random.default_rng(3)
    symmetry = Symmetry(units, class_shift=True)
    sizes = (*sizes[:-2], 7, sizes[-1])

    def awkward():
        point = at_random(rng, sizes)
        (w, b), v = point[-2], point[-1].weight
        w[1], b[1] = w[0], b[0]
        w[3], b[3], v[:, 3] = w[2], b[2], v[:, 2]
        w[4], b[4], v[:, 4] = 0, 0, 0
        v[:, 5] = 0
        if len(sizes) > 3:
            point[1].weight[:, 1] = point[1].weight[:, 0]
            point[0].weight[3], point[0].bias[3] = point[0].weight[2], point[0].bias[2]
        return point

    point, other = awkward(), awkward()
    copies = [copy_of(rng, point, symmetry) for _ in range(20)]
    assert distinct(stack([point, *copies, other]), symmetry).label.tolist() == [0] * 21 + [1]
    swapped = jax.tree.map(np.copy, point)
    swapped[-1].weight[:, [0, 2]] = point[-1].weight[:, [2, 0]]  # each unit's norms as before, another function
    assert distinct(stack([point, swapped]), symmetry).label.tolist() == [0, 1]


def test_units_dead_on_one_side_keep_their_direction():
    """w ≠ 0 without outgoing weights: rescaled copies are found, another direction of w is another point."""
    relu = Symmetry("positive", class_shift=True)
    first = np.array([[[1.0, 2.0], [3.0, 4.0]], [[3.0, 4.0], [5.0, 10.0]], [[3.0, 4.0], [2.0, 1.0]]])
    last = np.array([[[0.0, 1.0], [0.0, 2.0]], [[1.0, 7.0], [2.0, 7.0]], [[1.0, 0.0], [2.0, 0.0]]])
    assert distinct([Layer(first, None), Layer(last, None)], relu).label.tolist() == [0, 0, 1]
    mirrored = [Layer(np.swapaxes(last, 1, 2), None), Layer(np.swapaxes(first, 1, 2), None)]  # no incoming weights
    mirrored[0].weight[1] = [[1.0, 2.0], [0.0, 0.0]]
    mirrored[1].weight[1] = mirrored[1].weight[0][:, ::-1] * [[1.0, 5.0]]
    assert distinct(mirrored, Symmetry("positive")).label.tolist() == [0, 0, 1]


def test_balanced_is_the_least_norm_and_does_not_depend_on_the_scales():
    rng = np.random.default_rng(4)
    point = at_random(rng, (3, 4, 4, 4, 2))
    many = stack([point, *(copy_of(rng, point, Symmetry("positive")) for _ in range(5))])
    found = balanced([(w, b) for w, b in many])
    norms = norm_each(found)
    np.testing.assert_allclose(norms, norms[0], rtol=1e-13)
    assert (norms <= norm_each(many) * (1 + 1e-14)).all()
    for (w, b), (v, _) in itertools.pairwise(found):
        into = np.sum(w**2, axis=2) + b**2
        np.testing.assert_allclose(into, np.sum(v**2, axis=1), rtol=1e-12)


def norm_each(points):
    return np.sqrt(sum(np.sum(np.square(x).reshape(len(x), -1), axis=1) for layer in points for x in layer))


def test_chains_of_the_same_product_and_ranks_that_are_no_copies():
    """B A = 0 with A = e₁ uᵀ, B = v e₂ᵀ: the directions of u and v are what GL(2) leaves, and the product is blind."""
    linear, rng = Symmetry("linear"), np.random.default_rng(5)

    def chain(u, v):
        return [Layer(np.outer([1.0, 0.0], u), None), Layer(np.outer(v, [0.0, 1.0]), None)]

    points = [chain([1.0, 2.0], [3.0, 1.0]), chain([2.0, 1.0], [3.0, 1.0]), chain([1.0, 2.0], [1.0, 3.0])]
    points += [copy_of(rng, p, linear) for p in points]
    # u at another length is a copy; without A, or without B, the ranks differ
    points += [chain([2.0, 4.0], [3.0, 1.0]), chain([0.0, 0.0], [3.0, 1.0]), chain([1.0, 2.0], [0.0, 0.0])]
    assert distinct(stack(points), linear).label.tolist() == [0, 1, 2, 0, 1, 2, 0, 3, 4]


def test_the_root_of_the_product_is_its_root():
    weights = [w[None] for w, _ in at_random(np.random.default_rng(6), (4, 5, 3, 4))]
    root, values, bases, ranks = linear_invariants(weights, TOL)
    u, s, vt = np.linalg.svd(weights[2][0] @ weights[1][0] @ weights[0][0])
    np.testing.assert_allclose(root[0], u * np.cbrt(np.where(np.arange(4) < 3, s, 0)) @ vt, atol=1e-13)
    np.testing.assert_allclose(values[0][:3], np.cbrt(s[:3]), rtol=1e-12)
    assert ranks.tolist() == [[4, 3, 3, 3, 3, 3]]
    assert [bool(b.any()) for b in bases] == [True, False, False, False]  # of W_1, W_2 W_1, W_3 W_2, W_3


def test_roots_are_farther_apart_than_the_copies_of_least_norm():
    """√3 ‖H_a - H_b‖ bounds the distance of (U √S, √S Vᵀ) after the best rotation, near and far."""
    rng = np.random.default_rng(11)
    for size in np.geomspace(1e-7, 1, 30):
        a = at_random(rng, (4, 3, 5), bias=False)
        pair = [(a, nudged(rng, a, size))[k] for k in (0, 1)]
        roots, _, _, _ = linear_invariants([np.stack([p[m].weight for p in pair]) for m in (0, 1)], 1e-9)
        least = []
        for p in pair:
            u, s, vt = np.linalg.svd(p[1].weight @ p[0].weight)
            least.append([(np.sqrt(s[:3, None]) * vt[:3], None), (u[:, :3] * np.sqrt(s[:3]), None)])
        bound = np.sqrt(3) * np.linalg.norm(roots[0] - roots[1])
        assert 0.1 * bound < aligned_distance(*least, "orthogonal", 0.0) <= bound * (1 + 1e-6)


def test_small_weights_are_compared_by_their_own_size():
    """Near zero the product is tiny, and the points are as far apart as their weights are."""
    rng = np.random.default_rng(7)
    tiny = [jax.tree.map(lambda x: 1e-4 * x, at_random(rng, (3, 3, 3, 3), bias=False)) for _ in range(3)]
    assert distinct(stack(tiny), Symmetry("linear")).label.tolist() == [0, 1, 2]


def test_any_pytree_one_point_and_points_that_are_not_finite():
    none = Symmetry("none")
    tree = {"a": np.array([[1.0], [1.0 + 1e-7], [2.0], [np.nan], [np.nan], [np.inf]]), "b": np.zeros((6, 2, 3, 4))}
    found = distinct(tree, none)
    assert found.label.tolist() == [0, 0, 1, 2, 3, 4]
    assert found.representatives.tolist() == [0, 2, 3, 4, 5]
    assert distinct(jnp.arange(3.0), none).label.tolist() == [0, 1, 2]
    rng = np.random.default_rng(8)
    for units in UNITS:
        one = stack([at_random(rng, (2, 3, 4, 2))])
        assert distinct(one, Symmetry(units, True)).label.tolist() == [0]
        three = stack([at_random(rng, (2, 3, 4, 2)) for _ in range(3)])
        three[0].weight[0], three[1].bias[1] = np.inf, np.nan
        three[0].weight[2] = 1e200
        assert distinct(three, Symmetry(units, True)).label.tolist() == [0, 1, 2]
        zeros = jax.tree.map(lambda x: np.zeros_like(x), three)
        assert distinct(zeros, Symmetry(units, True)).label.tolist() == [0, 0, 0]
    shifted = stack([copy_of(rng, at_random(np.random.default_rng(9), (4, 3)), Symmetry("odd", True)) for _ in "123"])
    assert distinct(shifted, Symmetry("odd", True)).label.tolist() == [0, 0, 0]  # softmax regression: no hidden layer


@pytest.mark.parametrize("sizes", [(3, 4, 3), (3, 9, 3), (4, 4, 3, 3), (2, 6, 6, 2)])
def test_orthogonal_copies(sizes):
    rng, symmetry = np.random.default_rng(10), Symmetry("orthogonal", bias_shift=True)
    points = [at_random(rng, sizes) for _ in range(3)]
    points += [copy_of(rng, p, symmetry) for p in points] + [nudged(rng, points[0], 100 * TOL)]
    assert distinct(stack(points), symmetry).label.tolist() == [0, 1, 2, 0, 1, 2, 3]


def test_bad_arguments_are_named():
    good = stack([at_random(np.random.default_rng(0), (2, 3, 2)) for _ in range(4)])
    odd = Symmetry("odd")
    bad = Layer(good[1].weight[:, :, :2], good[1].bias)
    for call, error, message in [
        (lambda: Symmetry("od"), ValueError, "units: expected one of none, permutation, .* got 'od'"),
        (lambda: distinct(good, "odd"), TypeError, "symmetry: expected a Symmetry, got str"),
        (lambda: distinct(good, odd, tol=0.0), ValueError, "tol: expected a finite number > 0, got 0"),
        (lambda: distinct(good, odd, tol=-1), ValueError, "tol: expected a finite number > 0, got -1"),
        (lambda: distinct(np.zeros((3, 2)), odd), TypeError, "params: expected a sequence of layers"),
        (lambda: distinct([], odd), TypeError, "params: expected a sequence of layers"),
        (lambda: distinct([good[0], bad], odd), ValueError, r"params\[1\].weight: expected shape \(4, out, 3\), got"),
        (lambda: distinct([Layer(np.zeros((3, 2)), None)], odd), ValueError, r"params\[0\].weight: expected shape \(n"),
        (lambda: distinct([Layer(np.zeros((3, 2, 2)), np.zeros(3))], odd), ValueError, r"bias: expected shape \(3, 2"),
        (lambda: distinct([Layer(np.array([[["a"]]]), None)], odd), TypeError, "expected an array of real numbers"),
        (lambda: distinct([np.zeros(3), np.zeros(2)], Symmetry("none")), ValueError, "the same number of points"),
        (lambda: distinct({}, Symmetry("none")), ValueError, "at least 1, got"),
        (
            lambda: distinct([good[0]._replace(bias=None), good[1]], Symmetry("linear")),
            ValueError,
            "params: expected a bias in every layer or in none for 'linear'",
        ),
    ]:
        with pytest.raises(error, match=message):
            call()
