"""Runs again, against what the sweep itself recorded of them."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from jaxsoft import problem, replay, sweep, train

pytestmark = pytest.mark.usefixtures("quick_compilation")

AXES = {
    "eta": [0.1, 0.3, 1e30],
    "optimizer": {"gd": {"beta": 0.0}, "momentum": {"beta": 0.5}},
    "run": sweep.Seeds(2),
    "curvature": [1.0, -0.5],
}


def process(optimizer, beta, eta, curvature):
    surface = problem.quadratic([1.0, -0.2])
    made = surface._replace(loss=lambda x: curvature * surface.loss(x))
    transform = optax.sgd(eta, momentum=beta if optimizer == "momentum" else None)
    return train.make_train(made, transform, probe=lambda x: {"x": x})


@pytest.fixture(scope="module")
def recorded():
    return sweep.run(process, AXES, seed=7, steps=12)


def test_states_are_those_the_sweep_recorded(recorded):
    """Two steps of every run, NaN for some, in any order of the axes; a run that diverged stays where it was."""
    rng = np.random.default_rng(0)
    dims = ("run", "which", "eta", "curvature", "optimizer")
    steps = rng.integers(0, 13, [{"which": 2}.get(d, recorded.sizes.get(d)) for d in dims]).astype(float)
    steps[rng.random(steps.shape) < 0.3] = np.nan
    at = xr.DataArray(steps, {d: recorded[d] for d in dims if d != "which"}, dims)
    found = replay.states(process, AXES, at, seed=7)
    series = recorded["x"].transpose(*(d for d in dims if d != "which"), "step", ...).to_numpy()
    where = np.argwhere(~np.isnan(steps))
    expected = [series[run, eta, c, kind, int(steps[run, i, eta, c, kind])] for run, i, eta, c, kind in where]
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # float32, a dozen steps


def test_one_kind_gives_its_own_state(recorded):
    at = xr.DataArray([3, 5], {"run": [1, 0], "optimizer": "momentum", "eta": 0.3, "curvature": 1.0}, ["run"])
    x, trace = replay.states(process, AXES, at, seed=7, keep=lambda s: (s.params, s.opt_state[0].trace))
    chosen = recorded["x"].sel(optimizer="momentum", eta=0.3, curvature=1.0)
    for i, (run, step) in enumerate(((1, 3), (0, 5))):
        path = chosen.sel(run=run).transpose("step", ...).to_numpy()
        np.testing.assert_allclose(x[i], path[step], rtol=1e-5)
        np.testing.assert_allclose(-0.3 * trace[i], path[step] - path[step - 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (xr.DataArray([1.5], {"run": [0]}, ["run"]), "at: expected whole numbers >= 0"),
        (xr.DataArray([np.nan], {"run": [0]}, ["run"]), "at: expected whole numbers >= 0, at least one"),
        (xr.DataArray([1], {"run": [5]}, ["run"]), "at: expected labels of the axis run, got 5"),
        (xr.DataArray([1], dims=["run"]), "at: expected the axis run as a coordinate, got none"),
    ],
)
def test_steps_that_do_not_fit_are_named(at, message):
    bare = train.make_train(problem.quadratic([1.0]), optax.sgd(0.1))
    with pytest.raises(ValueError, match=message):
        replay.states(bare, {"run": sweep.Seeds(2)}, at, seed=0)
    assert jnp.shape(replay.states(bare, {}, xr.DataArray(2), seed=0)) == (1, 1)
