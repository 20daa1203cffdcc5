"""Searches end where the gradient is zero and say so, and say what else they came to where it is not."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg

from jaxsoft import critical, curvature, data, models, problem, sweep, theory
from jaxsoft.critical.minres import minres
from jaxsoft.data import Dataset

pytestmark = pytest.mark.usefixtures("quick_compilation")


def wells(p):
    """(x² - 1)² + 2 (y² - 1)²: 4 minima at (±1, ±1), 4 saddles of index 1, a maximum at 0."""
    return (p[0] ** 2 - 1) ** 2 + 2 * (p[1] ** 2 - 1) ** 2


def symmetric(rng, zeros=0, size=40):
    values = rng.normal(size=size)
    values[:zeros] = 0
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    matrix = basis * values @ basis.T
    return (matrix + matrix.T) / 2


def solve(matrix, b, **options):
    a = jnp.asarray(matrix)
    return minres(lambda v: a @ v, jnp.asarray(b), **{"tol": 1e-10, "max_steps": 200, **options})


@pytest.mark.parametrize("seed", range(3))
def test_minres_solves_what_can_be_solved(x64, seed):
    rng = np.random.default_rng(seed)
    matrix = symmetric(rng, zeros=5)
    b = matrix @ rng.normal(size=len(matrix))  # in the range, so the shortest solution is H⁺ b
    found = solve(matrix, b)
    shortest = np.linalg.pinv(matrix, rcond=1e-10) @ b
    np.testing.assert_allclose(found.x, shortest, atol=1e-6 * np.linalg.norm(shortest))
    assert np.linalg.norm(matrix @ found.x - b) <= 1e-9 * np.linalg.norm(b)
    scipys = scipy.sparse.linalg.minres(matrix, b, rtol=1e-12, maxiter=400)[0]
    assert np.linalg.norm(matrix @ (np.asarray(found.x) - scipys)) <= 1e-7 * np.linalg.norm(b)


@pytest.mark.parametrize("seed", range(5))
def test_minres_leaves_of_an_inconsistent_system_what_lies_outside_the_range(x64, seed):
    rng = np.random.default_rng(seed)
    matrix, b = symmetric(rng, zeros=8), rng.normal(size=40)
    found = solve(matrix, b, tol=1e-6)
    least = np.linalg.norm(matrix @ (np.linalg.pinv(matrix, rcond=1e-10) @ b) - b)
    residual = np.linalg.norm(matrix @ np.asarray(found.x) - b)
    assert residual == pytest.approx(least, rel=1e-8)
    assert float(found.residual) == pytest.approx(residual, rel=1e-8)


def test_minres_minimises_the_residual_over_the_krylov_space(x64):
    rng = np.random.default_rng(0)
    matrix, b = symmetric(rng), rng.normal(size=40)
    for steps in (1, 2, 5):
        krylov = np.stack([np.linalg.matrix_power(matrix, j) @ b for j in range(steps)], axis=1)
        best = matrix @ krylov @ np.linalg.lstsq(matrix @ krylov, b, rcond=None)[0] - b
        found = solve(matrix, b, max_steps=steps)
        assert int(found.steps) == steps
        assert np.linalg.norm(matrix @ np.asarray(found.x) - b) == pytest.approx(np.linalg.norm(best), rel=1e-9)


def test_the_step_within_reach_is_on_the_sphere_where_the_solution_is_outside(x64):
    rng = np.random.default_rng(0)
    matrix, b = symmetric(rng), rng.normal(size=40)
    whole = solve(matrix, b)
    length = float(jnp.linalg.norm(whole.x))
    for share in (0.01, 0.5):
        found = solve(matrix, b, reach=share * length)
        assert float(jnp.linalg.norm(found.within)) == pytest.approx(share * length, rel=1e-9)
        np.testing.assert_allclose(found.x, whole.x)
    np.testing.assert_array_equal(solve(matrix, b, reach=2 * length).within, whole.x)


ANY_INDEX = ("newton_mr", "newton", "trust_region")


@pytest.mark.parametrize("method", ANY_INDEX)
def test_newton_lands_on_the_saddle_of_a_quadratic_in_one_step(x64, method):
    saddle = problem.quadratic([3.0, -1.0, 0.5, -2.0])
    chosen = {"newton_mr": critical.newton_mr(tol=1e-12), "trust_region": critical.trust_region(radius=10.0)}
    found = critical.find(saddle.loss, jnp.array([0.1, 0.2, -0.3, 0.4]), chosen.get(method, method))
    assert (str(found.status), int(found.steps), int(found.inertia.negative)) == ("critical", 1, 2)


def test_saddle_free_newton_doubles_the_distance_from_a_saddle(x64):
    start = jnp.array([0.3, 1e-3])
    found = critical.find(problem.quadratic([1.0, -1.0]).loss, start, critical.saddle_free(radius=1e3), max_steps=4)
    np.testing.assert_allclose(found.params, [0.0, 16e-3], atol=1e-15)


@pytest.mark.parametrize("method", critical.METHODS)
def test_every_method_finds_a_critical_point_from_near_it(x64, method):
    points = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]]
    if method in ANY_INDEX:
        points += [[0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]]
    starts = jnp.array(points) + jnp.resize(jnp.array([0.05, -0.07, -0.1, -0.1]), (len(points), 2))
    tol = 1e-5 if method in ("gradient_norm", "perturbed_gd") else None
    found = critical.find_all(wells, starts, method, tol=tol, max_steps=3000)
    assert list(found.status) == ["critical"] * len(points)
    np.testing.assert_allclose(found.params, points, atol=1e-5)
    np.testing.assert_array_equal(found.inertia.negative, np.sum(np.array(points) == 0, axis=1))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_eigenvector_following_finds_the_index_it_is_asked_for(x64, index):
    """From wherever the Hessian has that index, which for one coordinate is where it is below 1/√3 or above."""
    points = jnp.array([(x, y) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0) if (x == 0) + (y == 0) == index])
    starts = jnp.resize(points, (20, 2)) + jax.random.uniform(jax.random.key(index), (20, 2), minval=-0.4, maxval=0.4)
    found = critical.find_all(wells, starts, critical.eigenvector_following(index))
    assert list(found.status) == ["critical"] * 20
    np.testing.assert_array_equal(found.inertia.negative, index)


def test_an_index_that_is_none_fails_also_where_it_is_traced(x64):
    asked = jnp.array([-3, 1, 3])
    one = jnp.array([[1.0], [0.0]])  # one direction, and so at most index 1
    for directions, numbers, verdicts in (
        (None, asked, ["failed", "critical", "failed"]),
        (one, jnp.arange(3), ["critical", "critical", "failed"]),
    ):

        def method(i, directions=directions, numbers=numbers):
            return critical.eigenvector_following(numbers[i], directions=directions)

        found = critical.find_all(wells, jnp.full((3, 2), 0.1), method, certify=False)
        assert list(found.status) == verdicts


def test_the_index_is_an_axis_of_a_sweep(x64):
    def search(index):
        return critical.make_search(wells, lambda key: jnp.array([0.1, 0.2]), critical.eigenvector_following(index))

    ds = sweep.run(search, {"index": [0, 1, 2]}, seed=0, steps=60)
    sizes = np.abs(ds["final_params"].to_numpy()).round(6)
    assert sizes.sum(axis=1).tolist() == [2.0, 1.0, 0.0]  # a minimum, a saddle, the maximum


def test_perturbed_descent_leaves_a_saddle_where_the_gradient_is_zero(x64):
    start = jnp.array([0.0, 1.0])  # a saddle of index 1, exactly
    found = critical.find(wells, start, critical.perturbed_gd(), tol=1e-6, max_steps=3000)
    assert (str(found.status), int(found.inertia.negative)) == ("critical", 0)
    stays = critical.find(wells, start, "newton")
    assert (str(stays.status), int(stays.steps), int(stays.inertia.negative)) == ("critical", 0, 1)


@pytest.mark.parametrize("method", ["newton_mr", "gradient_norm", "newton", "trust_region", "saddle_free"])
def test_a_gradient_in_the_kernel_is_flat_and_not_critical(x64, method):
    def slope(p):  # H = diag(2, 0), and g never has less than its second component
        return p[0] ** 2 + 1e-7 * p[1]

    found = critical.find(slope, jnp.array([0.3, 0.1]), method, tol=5e-8, max_steps=300)
    assert str(found.status) == "gradient_flat"
    assert found.kernel > 0.9


def test_nearly_flat_is_flat_where_the_critical_point_is_out_of_reach(x64):
    found = critical.find(lambda p: p[0] ** 2 + 1e-6 * (p[1] - 1e4) ** 2, jnp.array([0.3, 0.1]), max_steps=4)
    assert str(found.status) == "gradient_flat"
    assert found.flatness < 0.1 < 0.9 < found.kernel  # the Newton step exists, but is 10,000 long


@pytest.mark.parametrize("method", ["newton_mr", "trust_region", "gradient_norm"])
def test_separable_data_have_their_minimum_at_infinity_and_a_penalty_brings_it_back(x64, method):
    iris = data.iris()
    pair = Dataset(iris.x[:100], iris.y[:100], 2, "setosa and versicolor")
    model = models.softmax_regression(4, 2, init="normal", scale=1.0)
    starts = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 4))
    found = critical.find_all(problem.classification(model, pair).loss, starts, method, max_steps=100, certify=False)
    assert list(found.status) == ["diverging_to_infinity"] * 4
    if method == "trust_region":
        penalised = problem.classification(model, pair, l2=1e-2)
        found = critical.find_all(penalised.loss, starts, method, max_steps=100, certify=False)
        assert list(found.status) == ["critical"] * 4
        assert np.ptp(found.loss) < 1e-12


def test_degenerate_points_have_curvatures_that_vanish_there(x64):
    monkey = critical.find(problem.monkey_saddle().loss, jnp.array([0.3, 0.4]))
    assert (str(monkey.status), int(monkey.inertia.zero), int(monkey.inertia.negative)) == ("critical", 2, 0)
    found = critical.find(lambda p: p[0] ** 2 + p[1] ** 4 + p[2] ** 6, jnp.array([0.2, 0.3, 0.3]), "newton")
    assert (str(found.status), int(found.inertia.zero), int(found.inertia.positive)) == ("critical", 2, 1)
    deep = problem.classification(models.deep_linear([4, 3, 3, 3], init="zeros"), data.iris())
    origin = critical.find(deep.loss, deep.init(jax.random.key(0)))
    assert str(origin.status) == "critical"
    assert int(origin.inertia.negative) == int(origin.inertia.positive) == 0  # the Hessian is zero: no verdict by it
    two = problem.classification(models.deep_linear([4, 3, 3], init="zeros"), data.iris())
    strict = critical.find(two.loss, two.init(jax.random.key(0)))
    assert int(strict.inertia.negative) == 3 * 2  # h · rank M, a strict saddle


def test_a_kink_is_never_called_critical(x64):
    def kinked(p):  # its minimum at 0 has no zero gradient near it
        return 2 * jax.nn.relu(p[0]) + jax.nn.relu(-p[0]) + p[1] ** 2

    starts = jax.random.normal(jax.random.key(0), (8, 2))
    for method in ("newton_mr", "trust_region", "saddle_free"):
        found = critical.find_all(kinked, starts, method, max_steps=50, certify=False)
        assert set(found.status) <= {"gradient_flat", "failed"}


def test_a_start_that_is_not_a_number_fails_and_harms_no_other(x64):
    starts = jnp.array([[0.1, 0.2], [jnp.nan, 0.2], [0.7, 0.9]])
    found = critical.find_all(wells, starts, "newton")
    assert list(found.status) == ["critical", "failed", "critical"]
    alone = critical.find_all(wells, starts[::2], "newton")
    np.testing.assert_allclose(found.params[::2], alone.params, atol=1e-12)
    np.testing.assert_array_equal(found.inertia.negative[::2], alone.inertia.negative)
    assert str(found) == "2 critical, 1 failed"
    counts = [getattr(found.inertia, name) for name in ("negative", "zero", "positive", "undecided", "null")]
    np.testing.assert_array_equal(sum(counts), 2)  # P, at every end
    assert int(found.inertia.undecided[1]) == 2
    np.testing.assert_array_equal(np.isnan([found.inertia.band, found.inertia.bound]), [[False, True, False]] * 2)


def test_a_loss_that_is_no_number_beyond_its_minimum_has_a_degenerate_point_there(x64):
    def edge(x):  # H = 3.75 √x, which vanishes with x
        return jnp.sum(x**2.5)

    assert np.isnan(edge(jnp.array([-0.1])))
    one, many = critical.find(edge, jnp.array([1.0])), critical.find_all(edge, jnp.array([[1.0], [2.0]]))
    assert [str(one.status), *many.status] == ["critical"] * 3
    np.testing.assert_array_equal(many.inertia.zero, 1)
    assert int(one.inertia.zero) == 1


def test_an_unbounded_descent_fails(x64):
    found = critical.find(lambda p: p[0] ** 2 - p[1] ** 4, jnp.array([0.1, 2.0]), "saddle_free", max_steps=2000)
    assert str(found.status) == "failed"


def test_many_starts_are_traced_as_often_as_one(x64):
    traces = []

    def counted(p):
        traces.append(1)
        return wells(p)

    numbers = []
    for count in (1, 50):
        traces.clear()
        starts = jax.random.normal(jax.random.key(0), (count, 2))
        critical.find_all(counted, starts, "trust_region", certify=False)
        numbers.append(len(traces))
    assert 0 < numbers[1] <= numbers[0]


def test_counts_that_are_only_lower_bounds_say_so(x64, monkeypatch):
    starts = jnp.array([[0.1, 0.2], [0.9, 1.1]])
    assert critical.find_all(wells, starts, "newton").inertia.method == "tridiagonal"
    monkeypatch.setattr(curvature.certificate, "memory_bytes", lambda: 1)  # no matrix fits
    found = critical.find_all(wells, starts, "newton").inertia
    assert found.method == "lanczos"
    assert str(found).startswith("index at least")


def test_searches_on_disk_are_not_run_twice(x64, tmp_path):
    starts = jax.random.normal(jax.random.key(0), (5, 2))
    found = [critical.find_all(wells, starts, "newton", out=tmp_path / "run", certify=False) for _ in range(2)]
    for one, two in zip(jax.tree.leaves(found[0][:3]), jax.tree.leaves(found[1][:3]), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_minima_of_a_flax_net_and_of_its_copy_here_agree(x64):
    iris, l2 = data.iris(), 0.05
    flat = problem.classification(models.softmax_regression(4, 3), iris, l2=l2)
    flax = problem.classification(models.from_flax(nn.Dense(3, param_dtype=jnp.float64), iris.x[0]), iris, l2=l2)
    losses = [
        critical.find(made.loss, made.init(jax.random.key(1)), "trust_region").loss.item() for made in (flat, flax)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-14)


def test_near_every_critical_point_of_a_linear_autoencoder_that_one_is_found(x64):
    rng = np.random.default_rng(0)
    s, width = np.array([3.0, 2.0, 1.0]), 2
    subsets, starts = ([], [0], [2], [0, 1], [1, 2]), []
    for chosen in subsets:
        a, b = np.zeros((3, width)), np.zeros((width, 3))
        for unit, i in enumerate(chosen):
            a[i, unit] = b[unit, i] = np.sqrt(s[i])
        starts.append([x + 1e-3 * rng.normal(size=x.shape) for x in (a, b)])
    stacked = tuple(jnp.asarray(np.stack(part)) for part in zip(*starts, strict=True))
    found = critical.find_all(lambda p: 0.5 * jnp.sum((jnp.diag(jnp.asarray(s)) - p[0] @ p[1]) ** 2), stacked)
    assert set(found.status) == {"critical"}
    index, loss = zip(*(theory.baldi_hornik(s, chosen, width) for chosen in subsets), strict=True)
    np.testing.assert_allclose(found.loss, loss, rtol=1e-9)
    np.testing.assert_array_equal(found.inertia.negative, index)


def test_the_saddles_below_the_top_of_four_wells(x64):
    def tilted(p):
        return wells(p) + 0.1 * p[0]

    graph = critical.saddle_graph(tilted, jnp.zeros(2))
    index, loss = graph.indices, graph.points.loss
    assert sorted(index.tolist()) == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert np.sum((-1.0) ** index) == 1  # Poincaré and Hopf, for a loss that grows to all sides
    edges = {tuple(edge) for edge in graph.edges.tolist()}
    assert all(index[a] > index[b] and loss[a] > loss[b] for a, b in edges)
    assert graph.lost == 0
    for node in np.flatnonzero(index == 1):  # down from a saddle to its two sides
        assert sum(a == node for a, _ in edges) == 2
    assert {b for a, b in edges if a == 0} >= set(np.flatnonzero(index == 1))


def test_an_edge_of_the_graph_leads_down_also_where_a_saddle_of_lower_index_lies_higher(x64):
    def walls(p):
        x, y = p
        wall = 1 - jnp.exp(-4 * x**2)
        across = 3 * (x**2 - 1) ** 2 + 0.1 * (1 - wall) * jnp.cos(2 * y)
        return across + wall * 5 * (1 - jnp.cos(y + 0.5)) + 0.02 * y**2

    graph = critical.saddle_graph(walls, jnp.zeros(2), ways=2)
    index, loss = graph.indices, graph.points.loss
    assert walls(graph.points.params[0]) == loss[0]
    assert len(graph.edges) and all(index[a] > index[b] and loss[a] > loss[b] for a, b in graph.edges)
    few = critical.saddle_graph(walls, jnp.zeros(2), ways=2, most=2)  # the first level alone is larger
    assert len(few.points.loss) == 2
    first = graph.edges[graph.edges[:, 0] == 0]
    assert few.lost >= len(first) - 1 > 0


def test_copies_of_a_point_are_one_node(x64):
    made = problem.classification(models.mlp([4, 2, 3]), data.iris(), l2=0.02)
    zero = jax.tree.map(jnp.zeros_like, made.init(jax.random.key(0)))
    graph = critical.saddle_graph(made.loss, zero, ways=1)
    index, loss = graph.indices, np.asarray(graph.points.loss)
    examples = data.iris()
    with_bias = np.column_stack([examples.x, np.ones(len(examples.y))])  # a hidden bias is one more input
    rates = theory.zero_saddle_rates(with_bias, examples.y, 3)
    assert index[0] == 2 * np.sum(rates > 0.02)  # h for each way down that is steeper than the penalty
    for level in set(index.tolist()):  # copies by permuted units and flipped signs would have equal losses
        assert np.min(np.diff(np.sort(loss[index == level])), initial=1.0) > 1e-9
    assert all(loss[a] > loss[b] for a, b in graph.edges)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "newtn"}, r"method: expected one of .* \(nearest: 'newton'\)"),
        ({"method": critical.eigenvector_following(3)}, "index: expected at most 2, the number of parameters, got 3"),
        ({"method": "eigenvector_following"}, r"method: expected critical.eigenvector_following\(k\)"),
        (
            {"method": critical.eigenvector_following(2, directions=jnp.ones((2, 1)))},
            "index: expected at most 1, the number of directions, got 2",
        ),
        (
            {"method": critical.eigenvector_following(1, directions=jnp.ones((3, 1)))},
            r"directions: expected shape \(2, k\), got \(3, 1\)",
        ),
        ({"params": jnp.array([jnp.nan, 1.0])}, "params: expected a finite start, got NaN or infinity"),
        ({"tol": 0.0}, "tol: expected a finite number > 0, got 0"),
        ({"max_steps": 0}, "max_steps: expected an integer >= 1, got 0"),
    ],
)
def test_what_does_not_fit_is_named(x64, change, message):
    arguments = {"loss": wells, "params": jnp.array([0.1, 0.2]), **change}
    with pytest.raises(ValueError, match=message):
        critical.find(**arguments)


def test_starts_and_saddles_that_do_not_fit_are_named(x64):
    with pytest.raises(ValueError, match="starts: expected the same number of points, at least one, in every leaf"):
        critical.find_all(lambda p: jnp.sum(p[0]) + jnp.sum(p[1]), (jnp.ones((3, 2)), jnp.ones((2, 2))))
    with pytest.raises(TypeError, match="loss: expected one real number"):
        critical.find(lambda p: p, jnp.ones(2))
    with pytest.raises(TypeError, match="params: expected arrays of floats"):
        critical.find(wells, jnp.array([1, 2]))
    with pytest.raises(TypeError, match="method: expected a name or a Method"):
        critical.find(wells, jnp.ones(2), 3)
    with pytest.raises(ValueError, match="saddle: expected a critical point with a way down"):
        critical.saddle_graph(wells, jnp.ones(2))
    with pytest.raises(ValueError, match="index: expected an integer >= 0"):
        critical.eigenvector_following(-1)
    with pytest.raises(ValueError, match="index: expected an integer >= 0, got -1"):
        critical.eigenvector_following(jnp.array(-1))
    with pytest.raises(TypeError, match="index: expected an integer >= 0, got"):
        critical.eigenvector_following(jnp.array([0, 1]))
    with pytest.raises(TypeError, match="starts: expected arrays of floats, got int"):
        critical.find_all(wells, jnp.ones((3, 2), int))
    with pytest.raises(TypeError, match="params: expected arrays of floats, got str"):
        critical.find(wells, "abc")
    for maker in (critical.newton, critical.eigenvector_following, critical.METHODS["saddle_free"]):
        with pytest.raises(TypeError, match=f"the function that makes one: {maker.__name__}"):
            critical.find_all(wells, jnp.ones((3, 2)), maker)
    with pytest.raises(TypeError, match=r"method: expected a function that returns a Method, got one .* 'newton'"):
        critical.find_all(wells, jnp.ones((3, 2)), lambda i: "newton")
    with pytest.raises(TypeError, match="init: expected a function of a key"):
        critical.make_search(wells, 3)
    with pytest.raises(TypeError, match="symmetry: expected a Symmetry, got str"):
        critical.saddle_graph(wells, jnp.ones(2), symmetry="odd")
    with pytest.raises(TypeError, match="saddle: expected arrays of floats"):
        critical.saddle_graph(wells, [1])
