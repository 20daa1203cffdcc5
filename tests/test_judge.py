"""What tells a critical point from one that lies at infinity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoft import critical, sweep

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("other", [0.0, 300.0])
def test_a_minimum_at_infinity_is_none_however_long_the_other_parameters_are(x64, other):
    found = critical.find(lambda x: jax.nn.softplus(-x[0]) + 0.5 * (x[1] - other) ** 2, jnp.array([1.0, 0.5]), "newton")
    assert found.status == "diverging_to_infinity"
    assert found.distance == pytest.approx(1.0, abs=1e-6)


CLIMBS = {  # the loss rises for ever, and ever more slowly, in x: Newton's steps lead up, as long as the last one
    "beside a long parameter": (lambda x: -jax.nn.softplus(-x[0]) + 0.5 * (x[1] - 300) ** 2, [1.0, 0.5]),
    "steep": (lambda x: -jax.nn.softplus(-50 * x[0]) + 0.5 * (x[1] - 3) ** 2, [0.1, 0.5]),
    "steep tanh": (lambda x: jnp.tanh(50 * x[0]) + 0.5 * (x[1] - 3) ** 2, [0.1, 0.5]),
    "a gradient whose square underflows": (lambda x: -jnp.exp(-(x[0] ** 2)) + x[1] ** 2, [20.0, 0.5]),
}


@pytest.mark.parametrize("case", CLIMBS)
def test_a_way_up_that_never_ends_is_no_critical_point(x64, case):
    loss, start = CLIMBS[case]
    for method in ("newton", "newton_mr", "trust_region"):
        assert critical.find(loss, jnp.array(start), method).status != "critical"


def test_what_is_not_finite_is_no_critical_point(x64):
    def well(x):
        return jnp.sum((x**2 - 1) ** 2)

    starts = jnp.array([[1e200, 1.0], [1.5, 0.5], [1.0, 1e120]])
    found = critical.find_all(well, starts, "newton_mr")
    assert list(found.status) == ["failed", "critical", "failed"]
    steep = critical.find(lambda x: x[0] * jnp.exp(-x[0]) + 0.5 * x[1] ** 2, jnp.array([0.0, 1.0]), "newton_cg")
    assert steep.status != "critical"


@pytest.mark.parametrize("y", [1e-3, 1.0])
def test_a_way_to_infinity_is_seen_beside_another_parameter_that_has_not_quite_arrived(x64, y):
    """tanh x falls to the left; ½ y² has arrived but for rounding."""
    for loss, x in ((lambda x: jnp.tanh(x[0]) + 0.5 * x[1] ** 2, -2.0), (lambda x: 1 / x[0] + 0.5 * x[1] ** 2, 5.0)):
        assert critical.find(loss, jnp.array([x, y]), "newton_cg").status == "diverging_to_infinity"


@pytest.mark.parametrize("power", [2, 4, 6, 8])
def test_a_flat_minimum_is_critical_from_either_side(x64, power):
    starts = jnp.array([[0.5, 0.3], [1.5, 0.3]])
    found = critical.find_all(lambda x: (x[0] - 1.0) ** power / power + x[1] ** 2, starts, "newton", certify=False)
    assert list(found.status) == ["critical"] * 2


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_the_way_to_infinity_does_not_depend_on_where_zero_is(x64, offset):
    """softplus(-(x + c)): Newton's steps tend to 1 for every c, but |x| shrinks as long as x < 0."""
    found = critical.find(lambda x: jax.nn.softplus(-(x[0] + offset)) + x[1] ** 2, jnp.array([1.0 - offset, 0.5]))
    assert found.status == "diverging_to_infinity"
    assert offset == 0 or found.params[0] < 0


SEPARABLE = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-0.99, 0.2]])  # (0.1, 1) separates them
SATURATED = jnp.array([-60.0, -900.0])  # all on the wrong side, so far that every sigmoid is constant


def logistic(examples, l2=0.0):
    return lambda w: jnp.mean(jax.nn.softplus(-examples @ w)) + 0.5 * l2 * jnp.sum(w**2)


def test_a_saturated_end_has_its_minimum_at_infinity_only_where_a_plane_separates(x64):
    downhill = -jax.grad(logistic(SEPARABLE))(SATURATED)
    assert (SEPARABLE @ downhill).min() < 0  # straight downhill the loss would rise again
    for examples, expected in (
        (SEPARABLE, "diverging_to_infinity"),
        (jnp.concatenate([SEPARABLE, -SEPARABLE[:1]]), "gradient_flat"),  # has a minimum, or a valley with a floor
    ):
        found = critical.find(logistic(examples), SATURATED, "trust_region")
        assert found.grad_norm > 0.1
        assert found.status == expected
    assert critical.find(logistic(SEPARABLE, l2=0.1), SATURATED, "newton").status == "critical"


# tail, curvature of x, curvature and place of y, slope of y -> where the critical point is, or what there is instead
TABLE = {
    (1, 0, 1, 300, 0): "diverging_to_infinity",
    (1, 0, 100, 3, 0): "diverging_to_infinity",
    (0, 1, 0, 0, 9e-6): "gradient_flat",
    (0, 1e8, 0, 0, 1e-9): "gradient_flat",
    (0, 4, 1e-8, 500, 0): (0, 500),
    (0, 1, 1, 300, 0): (0, 300),
    (0, 1e7, 1, 0.3, 0): (0, 0.3),
}


def of_the_table(case, x):
    tail, stiff, soft, place, slope = case
    return tail * jax.nn.softplus(-x[0]) + stiff * x[0] ** 2 / 2 + soft * (x[1] - place) ** 2 / 2 + slope * x[1]


def ends(loss, cases, start, method, steps=100):
    """The verdict and the end for every row of numbers ``case``, in one program."""
    rows, begin = jnp.asarray(cases, float), jnp.asarray(start, float)

    def search(case):
        row = rows[jnp.asarray(case).astype(int)]
        return critical.make_search(lambda x: loss(row, x), lambda key: begin, method)

    ds = sweep.run(search, {"case": range(len(rows))}, seed=0, steps=steps, record_every=steps)
    return [critical.VERDICTS[code] for code in ds["final_verdict"].to_numpy()], ds["final_params"].to_numpy()


@pytest.mark.parametrize(("method", "double"), [("newton", False), ("trust_region", False), ("newton_mr", True)])
def test_a_point_is_critical_only_near_one_however_stiff_or_long_the_others_are(method, double):
    """In float64 also with other axes, (x, y) turned; float32 has no digits left there for a slope of 1e-5 at 300."""
    turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
    cases = [(*case, turned) for turned in range(1 + double) for case in TABLE]
    with jax.enable_x64(double):
        matrix = jnp.asarray(turn)
        found = ends(
            lambda case, x: of_the_table(case[:5], jnp.where(case[5] > 0, matrix @ x, x)), cases, [1.0, 0.5], method
        )
    for (*case, turned), status, end in zip(cases, *found, strict=True):
        truth = TABLE[tuple(case)]
        if not isinstance(truth, str):
            here = turn @ end if turned else end
            near = np.linalg.norm(here - truth) <= 0.01 * (1 + np.linalg.norm(here))
            assert (status == "critical") <= near
            assert status == "critical" or case[2] < 1e-4  # so flat a direction may be out of reach
        elif not (turned and case[1] == 1e8):  # then a slope of 1e-9 is less than the rounding of 1e8 x
            assert status == truth


def test_a_stiff_minimum_is_critical_though_its_condition_is_ten_million(x64):
    def stiff(x):
        return 0.5 * x[1] ** 2 + 0.5e7 * x[0] ** 2 + 0.1 * (x[0] ** 3 + x[1] ** 3 + x[0] * x[1] ** 2)

    found = critical.find(stiff, jnp.array([1e-3, 0.1]), certify=False)
    assert found.status == "critical"
    assert found.kernel < 1e-3  # the soft mode's curvature 1 is above √ε ‖H‖ = 0.15, so a Newton step cancels g
    assert found.distance == pytest.approx(float(jnp.linalg.norm(found.params)), rel=1e-3)


def test_a_search_goes_on_to_a_point_however_far_and_in_whatever_units_the_loss_is(x64):
    """In units of 1e-10 the rounding of g is above tol; in units of 1e10 ‖g‖ is below it from the start."""

    def loss(case, p):
        tail, sextic, wells = case
        x, (u, v) = p[0], p - jnp.array([0.1, 0.2])
        one = tail * (jax.nn.softplus(-x) + 0.5e-6 * x**2) + sextic * (x - 100) ** 6 / 1e8
        return one + (tail + sextic) * v**2 + wells * ((u**2 - 1) ** 2 + 2 * (v**2 - 1) ** 2)

    cases = [(1, 0, 0), (0, 1, 0), (0, 0, 1e-10), (0, 0, 1e10), (0, 0, 1)]
    early = ends(loss, cases, [0.8, 1.5], "newton", steps=1)[0]
    assert early[:3] == ["max_steps"] * 3  # on the way to a minimum, not to infinity
    status, end = ends(loss, cases, [0.8, 1.5], "newton")
    assert status == ["critical"] * 5
    x = end[0, 0]
    assert 1e-6 * x == pytest.approx(1 / (1 + np.exp(x)), rel=0.2)  # no slope: the tail's falls e-fold within 1
    assert end[1, 0] == pytest.approx(100, abs=1.01)
    assert np.linalg.norm(end[2] - [1.1, 1.2]) < 0.01 * (1 + np.linalg.norm(end[2]))
    np.testing.assert_allclose(end[3:], [[1.1, 1.2]] * 2, atol=1e-8)


def test_a_loss_that_is_constant_beyond_a_kink_has_its_minimum_there(x64):
    """max(0, -x) + y² is least for every x >= 0 with y = 0; ln(1 + e^-x) + y² nowhere."""

    def loss(case, x):
        return case[0] * jax.nn.relu(-x[0]) + case[1] * jax.nn.softplus(-x[0]) + x[1] ** 2

    status = ends(loss, [[1, 0], [0, 1]], [-1.0, 0.5], "trust_region")[0]
    assert status[0] in ("gradient_flat", "failed")
    assert status[1] == "diverging_to_infinity"


def test_a_loss_that_falls_without_bound_has_no_minimum_at_infinity(x64):
    found = critical.find(lambda x: x[0] ** 2 + 1e-3 * x[1], jnp.array([0.3, 0.1]))
    assert found.status == "gradient_flat"  # the gradient vanishes nowhere


@pytest.mark.parametrize(("powers", "index"), [((2, 2), 1), ((4, 4), 2)])
def test_a_search_uphill_without_end_gives_up(x64, powers, index):
    """x^p + 2 y^q grows to all sides: there is no saddle and no maximum."""
    start, farthest = jnp.array([3.0, 4.0]), 30.0
    method = critical.eigenvector_following(index, farthest=farthest)
    found = critical.find(lambda p: p[0] ** powers[0] + 2 * p[1] ** powers[1], start, method, max_steps=1000)
    assert found.status == "failed"
    assert found.steps < 100
    limit = farthest * (1 + 5)  # |start| = 5
    assert limit / 10 < float(jnp.linalg.norm(found.params)) < 4 * limit  # no step is longer than the way so far


def test_a_search_uphill_that_finds_no_smaller_gradient_gives_up_sooner(x64):
    """x + sin(x)/2 + y²: |g| >= 1/2 everywhere, and comes back to that in every period on the way up."""
    start = jnp.array([0.5, 0.3])

    def wavy(p):
        return p[0] + 0.5 * jnp.sin(p[0]) + p[1] ** 2

    found = critical.find(wavy, start, critical.eigenvector_following(1), max_steps=2000, certify=False)
    assert found.status in ("failed", "gradient_flat")
    assert 10 < float(jnp.linalg.norm(found.params) / (1 + jnp.linalg.norm(start))) < 40


@pytest.mark.parametrize("seed", [48, 207, 273])
def test_the_step_that_is_left_does_not_follow_rounding_into_the_kernel(x64, seed):
    """½‖M - A B‖² is flat along A C, C⁻¹ B. Next to a critical point g is so small that its rounding shows there."""
    m = np.random.default_rng(0).normal(size=(8, 8))
    u, s, vt = np.linalg.svd(m)
    rng = np.random.default_rng(seed)
    kept, c = np.sort(rng.choice(8, 3, replace=False)), rng.normal(size=(3, 3))
    a, b = u[:, kept] @ c, np.linalg.solve(c, s[kept, None] * vt[kept])
    apart = 10.0 ** rng.uniform(-14, -10)
    start = (a + apart * rng.normal(size=a.shape), b + apart * rng.normal(size=b.shape))
    found = critical.find(lambda p: 0.5 * jnp.sum((m - p[0] @ p[1]) ** 2), start, max_steps=1)
    assert found.status == "critical"
    assert found.distance <= 10 * apart * np.sqrt(a.size + b.size)  # no farther than the start was moved
    assert found.inertia.zero + found.inertia.null == 9  # the orbit's dimension
