"""Plateaus, escape times and survival curves, on traces whose answer is known."""

from __future__ import annotations

import doctest
import importlib
import math
import warnings

import numpy as np
import optax
import pytest
import scipy.stats
import xarray as xr

from jaxsoft import plateau, problem, sweep, theory, train
from jaxsoft.plateau import NONE, PLATEAU, STALL, TAIL, EscapeTime
from jaxsoft.process import DIVERGED


def test_escape_is_the_first_record_below_the_level():
    loss = np.array([[3, 2, 1, 3, 0.5], [3, 3, 3, 3, 3], [0.1, 3, 3, 3, 3], [3, 3, 3, 3, 0.9]])
    time, escaped = plateau.escape_time(loss, np.array([0, 10, 20, 30, 40]), 1.5)
    assert time.tolist() == [20, 40, 0, 40]
    assert escaped.tolist() == [True, False, True, True]


def test_a_run_that_was_not_watched_to_the_end_is_censored_there():
    loss = np.array([[3, 3, 1.0], [3, 3, 1.0]])
    time, escaped = plateau.escape_time(loss, np.array([0, 5, 10]), 1.5, watched=np.array([7, 10]))
    assert time.tolist() == [7, 10]
    assert escaped.tolist() == [False, True]


def test_a_nan_loss_is_no_escape():
    time, escaped = plateau.escape_time(np.array([[2.0, np.nan, np.nan]]), np.array([0, 1, 2]), 1.0)
    assert not escaped[0]
    assert time[0] == 2


def test_kaplan_meier_by_hand():
    # Times 1, 2+, 3, 3, 5+ (+: censored): S = 4/5 after 1, then 4/5 · 1/3 after 3.
    curve = plateau.survival(np.array([1, 2, 3, 3, 5]), np.array([1, 0, 1, 1, 0], bool))
    lookup = dict(zip(curve.time.tolist(), curve.share.tolist(), strict=True))
    np.testing.assert_allclose([lookup[t] for t in (0, 1, 2, 3, 5)], [1, 0.8, 0.8, 0.8 / 3, 0.8 / 3])
    assert plateau.median(curve) == 3
    # Greenwood on the log-log scale: S^exp(±1.96 se / ln S), se² = Σ d/(n(n-d))
    se = math.sqrt(1 / (5 * 4)) / abs(math.log(0.8))
    at = curve.time.tolist().index(1)
    np.testing.assert_allclose(curve.low[at], 0.8 ** math.exp(1.959964 * se), rtol=1e-6)
    np.testing.assert_allclose(curve.high[at], 0.8 ** math.exp(-1.959964 * se), rtol=1e-6)


def test_censoring_does_not_bend_the_exponential_law():
    rng = np.random.default_rng(0)
    n = 4000
    leave, watch = rng.exponential(10, n), rng.exponential(15, n)
    curve = plateau.survival(np.minimum(leave, watch), leave <= watch)
    for t in (2, 5, 10):
        at = np.searchsorted(curve.time, t) - 1
        # the standard error of the estimate is below 1.2 % here; 5 of them
        assert abs(curve.share[at] - math.exp(-t / 10)) < 0.06
        assert curve.low[at] < math.exp(-t / 10) + 0.03
    assert abs(plateau.median(curve) - 10 * math.log(2)) < 0.8


def test_nobody_leaves_and_everybody_leaves():
    never = plateau.survival(np.array([9, 9]), np.zeros(2, bool))
    assert never.share.tolist() == [1, 1]
    assert plateau.median(never) == math.inf
    ever = plateau.survival(np.array([4, 4]), np.ones(2, bool))
    assert ever.share[-1] == 0
    assert plateau.median(ever) == 4


def test_escape_from_a_quadratic_saddle_takes_the_steps_of_the_closed_form():
    """T = ln(R/|y₀|) / ln(1 + ηλ); here R is where -½ y² passes the level -½ R²."""
    eta, sigma, radius = 0.05, 1e-3, 0.5

    def process():
        return train.make_train(problem.quadratic([-1.0], sigma), optax.sgd(eta), keep_params=True)

    ds = sweep.run(process, {"run": sweep.Seeds(64)}, seed=0, steps=400)
    time, escaped = plateau.escape_time(ds["loss"].values, ds["step"].values, -0.5 * radius**2)
    start = np.sqrt(-2 * ds["loss"].isel(step=0).values)
    exact = np.log(radius / start) / np.log1p(eta)
    clear = np.abs(exact - np.round(exact)) > 1e-2  # float32 rounding over some 100 steps moves T by about 1e-3
    assert clear.mean() > 0.9
    assert escaped.all()
    np.testing.assert_array_equal(time[clear], np.ceil(exact)[clear])


def test_runs_of_a_sweep_with_one_that_breaks():
    ds = sweep.run(
        lambda eta: train.make_train(problem.quadratic([1.0]), optax.sgd(eta)),
        {"eta": [0.5, 1e30], "run": sweep.Seeds(3)},
        seed=0,
        steps=10,
        config={"num_classes": 2},
    )
    found = plateau.escape_times(ds, drop=0.9)
    level = 0.1 * math.log(2)
    assert found.attrs["level"] == pytest.approx(level)
    assert (ds["status"].sel(eta=1e30) == DIVERGED).all()
    below_at_once = ds["loss"].sel(eta=1e30).isel(step=0) < level
    np.testing.assert_array_equal(found["escaped"].sel(eta=1e30), below_at_once)
    assert (found["time"].sel(eta=1e30) <= 1).all()
    # ½ x² shrinks by 4 at each step
    start = ds["loss"].sel(eta=0.5).isel(step=0).values
    np.testing.assert_array_equal(found["time"].sel(eta=0.5), np.maximum(0, np.ceil(np.log(start / level) / np.log(4))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plateau.exit_level(1), "num_classes: expected an integer >= 2, got 1"),
        (lambda: plateau.exit_level(10, 1.5), r"drop: expected a number in \(0, 1\), got 1.5"),
        (lambda: plateau.escape_time(np.zeros((2, 3)), np.arange(4), 1.0), r"loss: expected shape \(..., 4\)"),
        (lambda: plateau.survival(np.array([]), np.array([])), "escaped: expected one flag for each"),
        (lambda: plateau.survival(np.array([1, np.nan]), np.ones(2)), "time: expected finite numbers >= 0, got nan"),
        (lambda: plateau.survival(np.array([2, -1.0]), np.ones(2)), "time: expected finite numbers >= 0, got -1.0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


KAPPA = 1e-3


def pieces(corners):
    """ln L falls along straight lines: (step, ln L) at each corner."""
    at, log = np.array(corners, float).T
    return lambda t: np.exp(np.interp(t, at, log))


# A stay at 0, a fall, a stay that sinks by 0.05, a fall, a stay to the end.
STAIRCASE = pieces([(0, 0), (400, 0), (450, -2), (1000, -2.05), (1030, -3), (2000, -3)])


def known(t, loss, **options):
    found = plateau.detect(loss, step=t, kappa=KAPPA, **options)
    return found.kind.tolist(), found.begin, found.end


SPACINGS = {
    "every step": np.arange(2001),
    "every 10th": np.arange(0, 2001, 10),
    "every 5th": np.arange(0, 2001, 5),
    "odd": np.unique(np.append(np.random.default_rng(0).integers(0, 2000, 300), [0, 2000])),
    "logarithmic": np.append(0, np.unique(np.geomspace(1, 2000, 300).round())),
}


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_staircase_is_found_to_the_spacing_of_the_records(spacing):
    t = SPACINGS[spacing]
    kind, begin, end = known(t, STAIRCASE(t))
    assert kind == [PLATEAU, PLATEAU, STALL]

    def records(step):  # the last record before a corner and the first after it
        at = np.searchsorted(t, step)
        return t[at] if t[at] == step else t[at - 1], t[at]

    for found, corner in zip([*begin, *end], [0, 450, 1030, 400, 1000, 2000], strict=True):
        low, high = records(corner)
        assert low <= found <= high


def test_levels_and_drops_of_a_staircase():
    found = plateau.detect(STAIRCASE(np.arange(2001)), kappa=KAPPA)
    sinking = (np.exp(-2) - np.exp(-2.05)) / 0.05  # the mean of e^y along a line
    np.testing.assert_allclose(found.level, [1, sinking, np.exp(-3)], rtol=1e-4)
    np.testing.assert_allclose(found.drop, [2, 0.95, 0], rtol=1e-12)


def test_the_rate_at_the_edges_is_kappa():
    """L = 1/(1 + e^{(t - 800)/20}) falls at the rate κ in ln L where e^{(t - 800)/20} = 20κ/(1 - 20κ)."""
    t = np.arange(1200)
    kind, begin, end = known(t, 1 / (1 + np.exp((t - 800) / 20)))
    assert kind == [PLATEAU]
    assert begin[0] == 0
    assert abs(end[0] - (800 + 20 * np.log(0.02 / 0.98))) <= 1


def test_a_power_of_time_is_a_tail_from_one_over_kappa_on():
    for power in (0.5, 1.0, 2.0):  # d ln L/dt = power/t
        t = np.arange(1, 20_000)
        kind, begin, end = known(t, 7 * t**-power)
        assert kind == [TAIL]
        assert abs(begin[0] - power / KAPPA) <= 1
        assert end[0] == t[-1]


def test_a_tail_ends_in_a_stall_where_the_reference_is_wrong():
    t = np.arange(1, 20_000)
    assert known(t, 1 + 100 / t, reference=1.0)[0] == [TAIL]
    late = 1 + 100 / t[2000:]  # here L falls by 5 % at most
    assert known(t[2000:], late)[0] == [STALL]


def test_the_closed_law_of_a_softmax_net_is_a_plateau_and_then_a_tail():
    """Two layers: the loss stays at ln 10, drops, and falls like 1/t; the drop is fastest around u = 2."""
    t = np.arange(4000.0)
    loss = theory.softmax_loss(theory.softmax_margin(t, 1e-12, 10, 2), 10)
    found = plateau.detect(loss, step=t, kappa=KAPPA)
    assert found.kind.tolist() == [PLATEAU, TAIL]
    np.testing.assert_allclose(found.level[0], np.log(10), rtol=0.01)
    assert theory.softmax_time(0.01, 1e-12, 10, 2) < found.end[0] < theory.softmax_time(1.0, 1e-12, 10, 2)


def test_short_rests_small_drops_and_falls_are_no_plateaus():
    t = np.arange(1000)
    assert known(t, np.exp(-2e-3 * t))[0] == []  # twice as fast as κ, all along
    rest = pieces([(0, 0), (100, -1), (150, -1), (1000, -9.5)])(t)  # shorter than δ/κ = 100
    assert known(t, rest)[0] == []
    nudge = pieces([(0, 0), (400, 0), (405, -0.05), (1000, -0.05)])(t)  # by less than δ
    kind, begin, end = known(t, nudge)
    assert (kind, begin.tolist(), end.tolist()) == ([STALL], [0], [999])
    assert known(t, nudge, delta=0.04)[0] == [PLATEAU, STALL]
    assert known(t[:90], np.ones(90))[0] == []  # too short to tell


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_loss_does_not_matter(scale):
    t = SPACINGS["every 10th"]
    for got, expected in zip(known(t, scale * STAIRCASE(t)), known(t, STAIRCASE(t)), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_noise_up_to_a_quarter_of_delta_hides_no_edge_and_makes_none():
    t = np.arange(0, 2001, 10)
    noise = 0.025 * np.random.default_rng(0).normal(size=(2000, len(t)))
    found = plateau.detect(STAIRCASE(t) * np.exp(noise), step=t, kappa=KAPPA)
    counts = (found.kind != NONE).sum(axis=1)
    assert np.mean(counts == 3) > 0.995
    right = counts == 3
    assert (found.kind[right, :2] == PLATEAU).all()
    assert np.mean(found.kind[right, 2] == STALL) > 0.99
    # the falls have rates of 0.04 and 0.03 a step: an edge moves by a few standard deviations of the noise over those
    for name, corners in (("begin", [0, 450, 1030]), ("end", [400, 1000, 2000])):
        edges = getattr(found, name)[right, :3]
        assert (np.abs(np.median(edges, axis=0) - corners) <= 10).all()
    falling = np.exp(-2e-3 * t + noise)
    assert np.mean((plateau.detect(falling, step=t, kappa=KAPPA).kind == NONE).all(axis=-1)) > 0.995


def test_a_spike_does_not_end_a_plateau():
    t = np.arange(2001)
    loss = STAIRCASE(t)
    loss[[150, 700, 1500]] *= 20
    kind, begin, end = known(t, loss)
    assert kind == [PLATEAU, PLATEAU, STALL]
    np.testing.assert_allclose([*begin, *end], [0, 450, 1030, 400, 1000, 2000], atol=5)


# where ln L rises: the kinds, and the corners at which the intervals begin and end
RISES = {
    "all along": ([(0, 0), (1000, 10)], [], [], []),
    "at the end": ([(0, 0), (800, 0), (1000, 2)], [STALL], [0], [800]),
    "at the begin": ([(0, 0), (10, 0.5), (800, 0.5), (850, -1), (1200, -1)], [PLATEAU, STALL], [10, 850], [800, 1200]),
    "a step": ([(0, 0), (500, 0), (510, 1), (1000, 1)], [STALL, STALL], [0, 510], [500, 1000]),
    "a step before a drop": (
        [(0, 0), (500, 0), (510, 1), (1000, 1), (1050, -3), (1500, -3)],
        [STALL, PLATEAU, STALL],
        [0, 510, 1050],
        [500, 1000, 1500],
    ),
    "after a fall": (
        [(0, 0), (300, -3), (600, -3), (700, -1), (1000, -1)],
        [STALL, STALL],
        [300, 700],
        [600, 1000],
    ),
    "as far as the fall": ([(0, 0), (500, -3), (1000, 0)], [], [], []),
    "slower than κ": ([(0, 0), (2000, 1)], [STALL], [0], [2000]),  # |d ln L/dt| = κ/2
}


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("name", RISES)
def test_a_loss_that_rises_does_not_stand_still(name, noise):
    corners, kinds, begins, ends = RISES[name]
    t = np.arange(corners[-1][0] + 1)
    loss = pieces(corners)(t) * np.exp(noise * np.random.default_rng(0).normal(size=len(t)))
    kind, begin, end = known(t, loss)
    assert kind == kinds
    # what is left of a rise in the mean of a stand moves an edge by a few records; so does noise, which over D records
    # has the mean σ/√D and hides a slope of κ as long as that exceeds κ D
    np.testing.assert_allclose([*begin, *end], [*begins, *ends], atol=5 + 3 * (noise / KAPPA) ** (2 / 3))


def test_levels_beside_a_rise_are_those_of_the_loss():
    corners, _, _, _ = RISES["a step before a drop"]
    found = plateau.detect(pieces(corners)(np.arange(1501)), kappa=KAPPA)
    np.testing.assert_allclose(found.level, np.exp([0, 1, -3]), rtol=1e-3)
    np.testing.assert_allclose(found.drop, [0, 4, 0], atol=1e-9)


def test_a_slow_slide_ends_a_plateau_once_it_has_gained_delta_on_kappa():
    """(1 + ε) κ gains ε κ a step: δ = 0.1 after 2,000 steps at ε = 0.05, on which ln L falls by 2.1."""
    for steps, kinds in [(1000, [TAIL]), (1990, [TAIL]), (2010, [PLATEAU])]:
        t = np.arange(1001 + steps)
        kind, _, end = known(t, np.exp(-1.05 * KAPPA * np.maximum(t - 1000, 0)))
        assert kind == kinds
        assert end[0] == (1000 if kinds == [PLATEAU] else t[-1])
    t = np.arange(5001)  # a rate of 0.85 κ and 1.05 κ in turn, each for 100 steps: one tail, not 25 plateaus
    wavering = np.exp(-np.cumsum(KAPPA * (0.95 + 0.1 * np.sign(np.sin((t + 0.5) * np.pi / 100)))))
    assert known(t, wavering)[0] == [TAIL]


def test_the_level_is_the_geometric_mean_of_what_is_above_the_reference():
    """L = 2 + 0.5 e^{n} with n of the variance v: 2 + 0.5 e^{mean n}, v/2 of 0.5 below the mean loss."""
    noise = 0.02 * np.random.default_rng(1).normal(size=4000)
    found = plateau.detect(2 + 0.5 * np.exp(noise), kappa=KAPPA, reference=2.0)
    # within a few records of each end the falling fit follows the noise: 10 of 4,000, each by 0.02
    np.testing.assert_allclose(found.level[0] - 2, 0.5 * np.exp(noise.mean()), rtol=1e-4)


def test_a_broken_run_is_watched_until_it_breaks():
    t = np.arange(2001)
    loss = np.stack([STAIRCASE(t)] * 4)
    loss[1, 700:] = np.nan
    loss[2, 420] = np.inf
    loss[3, 0] = np.nan
    found = plateau.detect(loss, kappa=KAPPA, watched=np.array([300, 2000, 2000, 2000]))
    assert found.kind.tolist() == [[STALL, NONE], [PLATEAU, STALL], [PLATEAU, NONE], [NONE, NONE]]
    assert found.end[0, 0] == 300
    assert found.end[1].tolist() == [400, 699]
    assert np.isnan(found.begin[3]).all()


def test_a_loss_that_reaches_its_limit_is_no_stall():
    loss = np.where(np.arange(1000) < 300, 1.0, 0.0)
    assert known(np.arange(1000), loss)[0] == [PLATEAU, TAIL]


def test_many_traces_are_as_many_single_ones():
    rng = np.random.default_rng(1)
    t = np.unique(np.append(0, np.geomspace(1, 3000, 150).round()))
    drops = np.cumsum(rng.exponential(0.5, (2, 3, 8)), axis=-1)
    at = np.cumsum(rng.exponential(300, (2, 3, 8)), axis=-1)
    loss = np.exp(-np.sum(drops[..., None] * scipy.special.expit((t - at[..., None]) / 5), axis=-2))
    loss *= np.exp(0.01 * rng.normal(size=loss.shape))
    many = plateau.detect(loss, step=t, kappa=KAPPA)
    for i in np.ndindex(2, 3):
        one = plateau.detect(loss[i], step=t, kappa=KAPPA)
        for whole, single in zip(many, one, strict=True):
            np.testing.assert_array_equal(whole[i][: len(single)], single)
        assert (many.kind[i][len(one.kind) :] == NONE).all()
    empty = plateau.detect(np.ones((0, len(t))), step=t, kappa=KAPPA)
    assert empty.kind.shape == (0, 0)


def test_a_sweep_comes_back_labelled():
    ds = sweep.run(
        lambda eta: train.make_train(problem.quadratic([1.0, -1e-3], 1.0), optax.sgd(eta)),
        {"eta": [0.5, 1e30], "run": sweep.Seeds(3)},
        seed=0,
        steps=100,
    )
    low = ds["loss"].min().item() - 1.0
    found = plateau.detect(ds.sel(eta=[0.5]), kappa=5e-3, reference=low)
    assert found["kind"].dims == ("eta", "run", "plateau")
    assert found.attrs == {"kappa": 5e-3, "delta": 0.1, "reference": low}
    assert (found["kind"].isel(plateau=0) != NONE).all()
    broken = plateau.detect(ds, kappa=5e-3, reference=low).sel(eta=1e30)
    assert (broken["kind"] == NONE).all()  # watched for one step
    assert (ds["status"].sel(eta=1e30) == DIVERGED).all()


def exponential(rate, watch, rng):
    """Times of this rate (...) seen up to ``watch``."""
    time = rng.exponential(1 / rate)
    return EscapeTime(np.minimum(time, watch), time <= watch)


def test_the_band_of_a_survival_curve_covers_the_law():
    rng, inside = np.random.default_rng(0), []
    for _ in range(400):
        curve = plateau.survival(*exponential(np.full(80, 0.1), rng.exponential(20, 80), rng))
        at = np.searchsorted(curve.time, 5.0, side="right") - 1
        inside.append(curve.low[at] <= np.exp(-0.5) <= curve.high[at])
    assert 0.92 < np.mean(inside) < 0.98  # 95 %, give or take three standard errors of 1.1 %


def test_ties_and_censoring_at_the_same_time():
    """The product S(t) = Π (1 - d/n), computed here directly; who is censored at t is still watched at t."""
    rng = np.random.default_rng(2)
    time, escaped = rng.integers(1, 8, 60), rng.random(60) < 0.6
    curve = plateau.survival(time, escaped)
    for t, share in zip(curve.time, curve.share, strict=True):
        steps = [s for s in range(1, 8) if s <= t]
        factors = [1 - np.sum((time == s) & escaped) / np.sum(time >= s) for s in steps]
        np.testing.assert_allclose(share, np.prod(factors), rtol=1e-12)


def test_log_rank_by_hand():
    first = EscapeTime(np.array([2, 4, 4, 6]), np.array([1, 1, 0, 1], bool))
    second = EscapeTime(np.array([4, 7, 7, 9]), np.array([1, 1, 0, 0], bool))
    # at 2: d = 1 of n = 8, 4 of them first; at 4: 2 of 7, 3 first; at 6: 1 of 4, 1 first; at 7: 1 of 3, none first
    expected = 4 / 8 + 2 * 3 / 7 + 1 / 4
    variance = 1 / 4 + 2 * (3 / 7) * (4 / 7) * 5 / 6 + 3 / 16
    result = plateau.log_rank(first, second)
    np.testing.assert_allclose(result.statistic, (3 - expected) / np.sqrt(variance), rtol=1e-12)
    np.testing.assert_allclose(result.pvalue, 2 * scipy.stats.norm.sf(abs(result.statistic)), rtol=1e-12)
    assert plateau.log_rank(second, first).statistic == pytest.approx(-result.statistic)


def test_log_rank_where_the_times_say_nothing():
    """All leave at the same record, or one group is no more watched: each d_1 = d n_1/n, so the test knows nothing."""

    def group(times, left):
        return EscapeTime(np.array(times), np.array(left, bool))

    everyone, once, brief = group([4, 4, 4], [1, 1, 1]), group([4], [1]), group([2, 2], [0, 0])
    for first, second in [(everyone, once), (once, once), (everyone, brief), (brief, everyone)]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert plateau.log_rank(first, second) == (0.0, 1.0)
    # one leaves while the other stays: d = 1 of n = 2, variance 1/4
    assert plateau.log_rank(once, group([6], [1])).statistic == pytest.approx((1 - 1 / 2) / np.sqrt(1 / 4))
    assert plateau.log_rank(once, group([4], [0])).statistic == pytest.approx(1)


def test_log_rank_is_fair_and_sees_a_double_rate():
    rng = np.random.default_rng(3)
    null = [
        plateau.log_rank(exponential(np.full(60, 0.1), 15, rng), exponential(np.full(60, 0.1), 15, rng)).pvalue
        for _ in range(400)
    ]
    assert abs(np.mean(np.array(null) < 0.05) - 0.05) < 0.033  # three standard errors
    faster = plateau.log_rank(exponential(np.full(200, 0.2), 15, rng), exponential(np.full(200, 0.1), 15, rng))
    assert faster.statistic > 4
    none = EscapeTime(np.full(5, 9.0), np.zeros(5, bool))
    assert plateau.log_rank(none, none) == (0.0, 1.0)


def test_pairs_by_hand():
    # first sooner, second sooner, both at 4, neither seen, first watched too briefly, left as the other's watch ends
    a = EscapeTime(np.array([1, 8, 4, 9, 2, 9]), np.array([1, 1, 1, 0, 0, 1], bool))
    b = EscapeTime(np.array([5, 3, 4, 9, 7, 9]), np.array([0, 1, 1, 0, 1, 0], bool))
    assert plateau.paired(a, b)[:4] == (2, 1, 1, 2)
    assert plateau.paired(b, a)[:4] == (1, 2, 1, 2)
    assert plateau.paired(a, b).share == pytest.approx(2 / 3)
    # Clopper & Pearson: P(X >= 2 | low) = P(X <= 2 | high) = 2.5 % of 3
    low, high = plateau.paired(a, b)[5:7]
    np.testing.assert_allclose([scipy.stats.binom.sf(1, 3, low), scipy.stats.binom.cdf(2, 3, high)], 0.025, rtol=1e-6)
    assert plateau.paired(a, b).pvalue == 1
    none = EscapeTime(np.full(3, 9), np.zeros(3, bool))
    assert plateau.paired(none, none) == (0, 0, 0, 3, 0.5, 0.0, 1.0, 1.0)


def test_pairs_are_the_log_rank_test_stratified_by_pairs():
    """Σ (d_1 - e_1) and Σ v of one log-rank table for each pair; a tie adds 1 - 2 · 1/2 and no variance."""
    rng = np.random.default_rng(4)
    a, b = (EscapeTime(rng.integers(1, 9, 50), rng.random(50) < 0.7) for _ in range(2))
    observed, variance = 0.0, 0.0
    for i in range(50):
        for t in range(1, 9):
            at_risk = [x.time[i] >= t for x in (a, b)]
            left = [x.time[i] == t and x.escaped[i] for x in (a, b)]
            n, d = sum(at_risk), sum(left)
            observed += left[0] - d * at_risk[0] / n if d else 0
            variance += d * at_risk[0] * at_risk[1] / n**2 * (n - d) / max(n - 1, 1) if d else 0
    found = plateau.paired(a, b)
    np.testing.assert_allclose(
        observed / np.sqrt(variance), (found.first - found.second) / np.sqrt(found.first + found.second)
    )


def test_pairs_are_fair_whatever_the_starts_and_find_the_ratio_of_rates():
    rng = np.random.default_rng(5)
    null = []
    for _ in range(400):  # rates that differ a hundredfold between pairs, watches that differ too
        rate, watch = 10 ** rng.uniform(-2, 0, 60), rng.exponential(30, 60)
        null.append(plateau.paired(exponential(rate, watch, rng), exponential(rate, watch, rng)).pvalue)
    assert np.mean(np.array(null) < 0.05) < 0.05 + 0.033  # exact tests of whole numbers stay below their level
    rate = 10 ** rng.uniform(-2, 0, 4000)
    found = plateau.paired(exponential(3 * rate, 30, rng), exponential(rate, 30, rng))
    assert found.low < 3 / 4 < found.high  # e^β / (1 + e^β) at e^β = 3
    assert found.high - found.low < 0.04


def test_a_comparison_of_starts_sees_what_their_spread_hides_from_the_groups():
    """The same 100 starts, the first kind 20 % faster from each: 100 pairs of 100, where the groups overlap."""
    rng = np.random.default_rng(6)
    time = 10 ** rng.uniform(1, 3, 100)
    first, second = (EscapeTime(time * factor, np.ones(100, bool)) for factor in (0.8, 1.0))
    assert plateau.paired(first, second).pvalue < 1e-20
    assert plateau.log_rank(first, second).pvalue > 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plateau.detect(np.ones(5), kappa=0.0), "kappa: expected a finite number > 0, got 0.0"),
        (lambda: plateau.detect(np.ones(5), kappa=0.1, delta=-1), "delta: expected a finite number > 0, got -1"),
        (lambda: plateau.detect(np.ones((2, 5)), kappa=0.1, step=np.arange(4)), r"losses: expected shape \(..., 4\)"),
        (lambda: plateau.detect(np.ones(3), kappa=0.1, step=np.array([0, 2, 1])), "step: expected increasing"),
        (lambda: plateau.detect(np.ones(3), kappa=0.1, reference=2.0), "reference: expected a number below the loss"),
        (
            lambda: plateau.detect(np.ones(3), kappa=0.1, reference=np.nan),
            "reference: expected finite numbers, got nan",
        ),
        (
            lambda: plateau.detect(np.ones((2, 3)), kappa=0.1, reference=np.zeros(3)),
            r"reference: expected a number, or one for each trace \(2,\), got \(3,\)",
        ),
        (
            lambda: plateau.detect(np.ones(3), kappa=0.1, watched=np.ones(3)),
            r"watched: expected a number, or one for each trace \(\), got \(3,\)",
        ),
        (lambda: plateau.detect(np.ones(3), kappa=0.1, watched=np.nan), "watched: expected steps, got nan"),
        (lambda: plateau.detect(np.ones(3), kappa=0.1, step=np.array([0, 1, np.inf])), "step: expected increasing"),
        (
            lambda: plateau.detect(xr.Dataset(), kappa=0.1, step=np.arange(3)),
            r"step: expected none beside a dataset, which has its own, got shape \(3,\)",
        ),
        (
            lambda: plateau.paired(EscapeTime(np.ones(2), np.ones(2)), EscapeTime(np.ones(3), np.ones(3))),
            r"second: expected the pairs of first, shape \(2,\), got \(3,\)",
        ),
    ],
)
def test_bad_traces_and_pairs_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_examples_of_the_docstrings():
    for name in ("detect", "survival"):
        assert doctest.testmod(importlib.import_module(f"jaxsoft.plateau.{name}")).failed == 0
