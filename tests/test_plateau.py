"""Escape times and survival curves, on traces whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import optax
import pytest

from jaxsoft import plateau, problem, sweep, train
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
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
