"""The critical point behind each plateau of a sweep, where theory knows it: the zero saddle of a two-layer net."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from jaxsoft import data, models, plateau, problem, replay, sweep, theory, train
from jaxsoft.plateau import PLATEAU

pytestmark = pytest.mark.usefixtures("quick_compilation")

HIDDEN = 2
AXES = {"learning_rate": [0.05, 0.1], "run": sweep.Seeds(2)}


def net():
    return problem.classification(models.mlp([4, HIDDEN, 3], scale=1e-3), data.iris())


def test_small_weights_stand_at_the_zero_saddle(x64):
    """Loss ln C, index h · rank M, escape rate s₁(M), as in ``theory.zero_saddle_rates``, at any learning rate."""
    made = net()
    process = lambda learning_rate: train.make_train(made, optax.sgd(learning_rate))  # noqa: E731
    ds = sweep.run(process, AXES, seed=0, steps=250)
    found = plateau.detect(ds, kappa=5e-3)
    at = plateau.flattest(ds, found).where(found["kind"] == PLATEAU)
    states = replay.states(process, AXES, at, seed=0)
    points = plateau.behind(made.loss, states, at)

    assert points["status"].dims == ("learning_rate", "run", "plateau")
    asked = ~np.isnan(at)
    assert bool(asked.isel(plateau=0).all())
    assert set(points["status"].to_numpy()[asked]) == {"critical"}
    assert (points["status"].where(~asked, "none") == "none").all()
    assert points["index"].isnull().equals(~asked)
    iris = data.iris()
    rates = theory.zero_saddle_rates(np.column_stack([iris.x, np.ones(len(iris.y))]), iris.y, 3)
    rank = int(np.sum(rates > 1e-10))
    seen = points.isel(plateau=0)
    np.testing.assert_allclose(seen["loss"], np.log(3), rtol=1e-12)  # |gradient| 1e-8: the loss is off by its square
    np.testing.assert_array_equal(seen["index"], HIDDEN * rank)
    np.testing.assert_array_equal(seen["undecided"], 0)
    np.testing.assert_allclose(seen["rate"], rates[0], rtol=1e-5)  # of order ‖θ*‖², θ* 0 but for flat directions
    recorded = ds["loss"].sel(step=at.isel(plateau=0).astype(int))
    np.testing.assert_allclose(seen["here"], recorded, rtol=1e-12)
    lengths = np.linalg.norm(jax.vmap(train.flatten)(states), axis=1)
    assert (points["distance"].to_numpy()[asked] <= lengths).all()  # the search is not sent beyond the point at zero


def test_the_flattest_record_is_within_its_interval():
    step = np.arange(0, 60, 2)
    loss = np.stack([np.where(step < 30, 2 - 1e-4 * np.abs(step - 8) * (step - 8), 0.5), np.full(30, 2.0)])
    loss[0, 15:] -= 1e-3 * np.arange(15) / 15
    runs = {"status": ("run", np.ones(2, np.int8)), "steps": ("run", np.full(2, 58))}
    ds = xr.Dataset({"loss": (("run", "step"), loss), **runs}, {"step": step, "run": [0, 1]})
    found = plateau.detect(ds, kappa=5e-3)
    at = plateau.flattest(ds, found)
    assert at.dims == ("run", "plateau")
    assert float(at[0, 0]) == 8  # where the slope of ln L is least
    inside = (at >= found["begin"]) & (at <= found["end"])
    assert inside.equals(found["begin"].notnull())
    norm = np.abs(np.add.outer(0 * np.arange(2), step - 20.0))
    ds["grad_norm"] = (("run", "step"), norm)
    assert float(plateau.flattest(ds, found)[0, 0]) == 20


def test_what_is_not_behind_the_plateau_is_not_called_so(x64):
    """A saddle of another loss is elsewhere; a state that is not a number, and a missing step, have none."""
    at = xr.DataArray([3.0, np.nan, 4.0, 5.0], dims=["plateau"])
    states = jnp.array([[0.1, 0.1], [0.1, 2.0], [np.nan, 0.0]])
    found = plateau.behind(lambda x: 1 + x[0] ** 2 - x[1] ** 2, states, at, delta=0.1)
    assert found["status"].to_numpy().tolist() == ["critical", "none", "elsewhere", "failed"]
    np.testing.assert_allclose(found["index"], [1, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(found["rate"], [2, np.nan, np.nan, np.nan], rtol=1e-10)
    np.testing.assert_allclose(found["distance"], [np.sqrt(0.02), np.nan, np.sqrt(4.01), np.nan], rtol=1e-10)
    with pytest.raises(ValueError, match="states: expected 3 points, one for each step, got 1"):
        plateau.behind(lambda x: x @ x, jnp.zeros((1, 2)), at)


def test_plateaus_are_found_and_their_flattest_records_without_jax():
    code = "import sys; from jaxsoft import plateau; plateau.flattest, plateau.detect; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
