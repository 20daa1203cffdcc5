"""The engine: its lanes obey closed forms, do not depend on each other, on chunks or on widths, and never get lost."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from jaxsoft import optimizers, problem, sweep, train
from jaxsoft.axes import Grid
from jaxsoft.data import iris
from jaxsoft.models import mlp
from jaxsoft.process import CONVERGED, DIVERGED, MAX_STEPS, RUNNING, Info, Process, until
from jaxsoft.program import Plan, Program

MODEL = mlp([4, 5, 3], init="normal", scale=0.3)


def bowl(eta, curvature=1.0):
    """Gradient descent on ½ λ x² from x ~ N(0, 1): x_t = (1 - ηλ)^t x_0."""
    return train.make_train(problem.quadratic([1.0]), optax.sgd(eta * curvature), tolerance=1e-3)


def saddle(eta):
    return train.make_train(problem.quadratic([-1.0, 1.0], sigma=1e-3), optax.sgd(eta), keep_params=True)


def classifier(optimizer, learning_rate):
    return train.make_train(problem.classification(MODEL, iris()), optimizers.make(optimizer, learning_rate))


def test_a_run_ends_at_the_first_loss_below_a_level():
    ds = sweep.run(lambda eta: until(bowl(eta), "loss", 1e-3), {"eta": [0.1], "run": sweep.Seeds(9)}, seed=1, steps=200)
    begin = ds["loss"].isel(step=0, eta=0).to_numpy()
    first = np.ceil(np.log(1e-3 / begin) / np.log(0.9**2))  # L_t = 0.9^2t L_0
    np.testing.assert_array_equal(ds["steps"].isel(eta=0), np.maximum(first, 0))
    assert (ds["status"] == CONVERGED).all()


def test_gradient_descent_follows_the_closed_form():
    etas = [0.01, 0.05]
    ds = sweep.run(saddle, {"eta": etas, "run": sweep.Seeds(5)}, seed=3, steps=60, record_every=6)
    start = np.stack([np.asarray(saddle(0.1).init(key_of(3, i)).params) for i in range(5)])
    growth = (1 + np.array(etas)[:, None, None] * np.array([1.0, -1.0])) ** 60
    # 60 float32 products, each rounded to 6e-8
    np.testing.assert_allclose(ds["final_params"], growth * start, rtol=2e-5)
    exact = 0.5 * np.sum(np.array([-1.0, 1.0]) * (growth * start) ** 2, axis=-1)
    np.testing.assert_allclose(ds["loss"].isel(step=-1), exact, rtol=1e-3, atol=1e-12)
    assert (ds["status"] == MAX_STEPS).all()
    assert (ds["steps"] == 60).all()


def key_of(seed, run):
    return jax.random.fold_in(jax.random.key(seed), run)


def test_lanes_stop_where_the_closed_form_says():
    etas = np.array([0.05, 0.3, 0.9])
    ds = sweep.run(bowl, {"eta": etas, "run": sweep.Seeds(40)}, seed=0, steps=300, width=2, chunk=24)
    start = np.array([float(bowl(0.1).init(key_of(0, i)).params[0]) for i in range(40)])
    exact = np.log(1e-3 / np.abs(start)) / np.log(1 - etas)[:, None]
    # The first integer step with |x_t| < 1e-3; a lane within 1e-3 of the boundary may round to either side.
    clear = np.abs(exact - np.round(exact)) > 1e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(ds["steps"].values[clear], np.maximum(np.ceil(exact), 0)[clear])
    assert (ds["status"] == CONVERGED).all()


def test_the_record_of_a_lane_that_ended_stays():
    ds = sweep.run(bowl, {"eta": [0.5], "run": sweep.Seeds(6)}, seed=0, steps=200, record_every=7, width=1)
    last = ds["loss"].isel(step=-1)
    after = ds["loss"].where(ds["step"] >= ds["steps"])
    assert bool(((after == last) | after.isnull()).all())
    assert bool((ds["grad_norm"].isel(step=-1) < 1e-3).all())


def test_thinned_records_are_the_dense_ones():
    axes = {"eta": [0.02], "run": sweep.Seeds(3)}
    dense = sweep.run(saddle, axes, seed=1, steps=50)
    thin = sweep.run(saddle, axes, seed=1, steps=50, record_every=8)
    assert thin["step"].values.tolist() == [0, 8, 16, 24, 32, 40, 48, 50]
    np.testing.assert_allclose(thin["loss"], dense["loss"].sel(step=thin["step"]), rtol=1e-5, atol=1e-13)


PAIRED = {"optimizer": ["gd", "adam"], "learning_rate": [0.01, 0.1], "run": sweep.Seeds(11)}


@pytest.fixture(scope="module")
def reference():
    return sweep.run(classifier, PAIRED, seed=5, steps=20, width=2, chunk=4)


@pytest.mark.parametrize(("width", "chunk"), [(1, 2), (3, 100), (None, None)])
def test_starts_are_bitwise_the_same_for_any_chunk_and_width(width, chunk, reference):
    ds = sweep.run(classifier, PAIRED, seed=5, steps=20, width=width, chunk=chunk)
    assert len(np.unique(ds["loss"].isel(step=0))) == 11
    # Losses are sums over 150 examples: the order of the sum may differ with the width, the draws may not.
    np.testing.assert_allclose(ds["loss"], reference["loss"], rtol=2e-5)
    starts = ds["loss"].isel(step=0)
    np.testing.assert_array_equal(starts.isel(optimizer=0), starts.isel(optimizer=1))
    np.testing.assert_array_equal(starts.isel(learning_rate=0), starts.isel(learning_rate=1))


@pytest.mark.parametrize("width", [1, 4, 5])
def test_drawn_parameters_are_bitwise_those_of_the_run_id(width):
    def process(eta):
        return train.make_train(problem.classification(MODEL, iris()), optax.sgd(eta * 0.0), keep_params=True)

    ds = sweep.run(process, {"eta": [1.0, 2.0], "run": sweep.Seeds(7)}, seed=9, steps=1, width=width, chunk=2 * width)
    expected = np.stack([train.flatten(process(1.0).init(key_of(9, i)).params) for i in range(7)])
    np.testing.assert_array_equal(ds["final_params"].values, np.stack([expected, expected]))


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_a_run_in_a_sweep_equals_plain_optax(name, x64):
    rate = optimizers.DEFAULT_LEARNING_RATE[name]
    steps = 25
    ds = sweep.run(
        classifier, {"optimizer": {name: {"learning_rate": rate}}, "run": sweep.Seeds(3)}, seed=2, steps=steps
    )
    loss = problem.classification(MODEL, iris()).loss
    transform = optax.with_extra_args_support(optimizers.make(name, rate))

    @jax.jit
    def plain_step(params, state, key):
        value, grad = jax.value_and_grad(loss)(params)
        updates, state = transform.update(grad, state, params, value=value, grad=grad, value_fn=loss, key=key)
        return value, optax.apply_updates(params, updates), state

    for run in range(3):
        init_key, _, noise_key = jax.random.split(key_of(2, run), 3)
        params = MODEL.init(init_key)
        state, trace = transform.init(params), []
        for step in range(steps + 1):
            value, params, state = plain_step(params, state, jax.random.fold_in(noise_key, step))
            trace.append(float(value))
        # float64 rounding (1e-16) grows along 25 steps of a smooth loss; muon's orthogonalisation amplifies it most
        np.testing.assert_allclose(ds["loss"].values[0, run], trace, rtol=1e-9)


@pytest.mark.parametrize("width", [1, 2])
def test_blocks_in_one_call_are_bitwise_those_of_calls_of_their_own(width, monkeypatch):
    """A block runs the same program, whatever runs before and after it on the same device."""

    def trained():
        return sweep.run(classifier, PAIRED, seed=5, steps=20, width=width)

    plans = []
    planned = Program.plan
    monkeypatch.setattr(Program, "plan", lambda *a, **k: plans.append(planned(*a, **k)) or plans[-1])
    together = trained()
    assert min(plan.blocks for plan in plans) > 1
    monkeypatch.setattr("jaxsoft.program.CALL_BYTES", 1)
    alone = trained()
    assert plans[-1].blocks == 1
    for name in ("loss", "grad_norm", "steps", "status"):
        np.testing.assert_array_equal(together[name], alone[name])


def test_a_diverging_lane_is_frozen_and_harms_nobody():
    # On ½x² gradient descent with η multiplies x by (1 - η): 1e30 overflows float32 in its second step.
    etas = [0.1, 1e30, 0.2]
    ds = sweep.run(bowl, {"eta": etas, "run": sweep.Seeds(8)}, seed=0, steps=40, width=4)
    calm = sweep.run(bowl, {"eta": [0.1, 0.2], "run": sweep.Seeds(8)}, seed=0, steps=40, width=4)
    broken = ds.sel(eta=1e30)
    assert (broken["status"] == DIVERGED).all()
    assert broken["steps"].values.tolist() == [1] * 8  # its loss is not finite after one step already
    assert np.isfinite(ds["loss"]).all()
    np.testing.assert_allclose(broken["loss"], broken["loss"].isel(step=0).values[:, None] + np.zeros(41))
    np.testing.assert_allclose(ds["loss"].sel(eta=[0.1, 0.2]), calm["loss"], rtol=1e-6)


def test_a_start_that_is_not_a_number_is_kept_with_its_status():
    def process():
        def init(key):
            return jnp.where(jax.random.uniform(key) < 0.5, jnp.nan, 1.0)

        def step(x):
            return 0.5 * x, Info(jnp.zeros((), jnp.int32), {"x": x}, {})

        return init, step

    ds = sweep.run(process, {"run": sweep.Seeds(20)}, seed=0, steps=3)
    bad = np.array([float(jax.random.uniform(key_of(0, i))) < 0.5 for i in range(20)])
    assert 0 < bad.sum() < 20
    np.testing.assert_array_equal(ds["status"].values == DIVERGED, bad)
    np.testing.assert_array_equal(ds["steps"].values == 0, bad)
    np.testing.assert_allclose(ds["x"].values[~bad], 0.5 ** np.arange(4) * np.ones((int((~bad).sum()), 1)))


def test_infinity_that_was_there_before_is_no_divergence():
    """A best-loss-so-far that starts at infinity is an honest state."""

    def init(key):
        return jnp.inf, jax.random.normal(key)

    def step(state):
        best, x = state
        return (jnp.minimum(best, x**2), 0.9 * x), Info(jnp.zeros((), jnp.int32), {"x": x}, {"best": best})

    ds = sweep.run(Process(init, step), {"run": sweep.Seeds(4)}, seed=0, steps=5)
    assert (ds["status"] == MAX_STEPS).all()
    np.testing.assert_allclose(ds["final_best"], ds["x"].isel(step=-2) ** 2, rtol=1e-6)


def test_one_compilation_however_many_chunks_and_lanes(monkeypatch):
    compiled, whole = [], Program._compile
    monkeypatch.setattr(Program, "_compile", lambda self, plan: compiled.append(plan) or whole(self, plan))

    def traced(lanes, chunk, factor):
        count = 0

        def process(eta):
            init, step = saddle(eta)

            def counted(state):
                nonlocal count
                count += 1
                following, info = step(state)
                return dataclasses.replace(following, theta=factor * following.theta), info

            return Process(init, counted)

        ds = sweep.run(process, {"eta": [0.1], "run": sweep.Seeds(lanes)}, seed=0, steps=9, width=2, chunk=chunk)
        return count, ds

    first, other = traced(4, 4, 1.0), traced(4, 4, 0.5)
    assert first[0] == other[0] == traced(64, 4, 0.75)[0] == traced(3, 4, 0.25)[0] == 2  # alone, and on the mesh
    assert len(compiled) == 4
    assert not np.allclose(first[1]["final_params"], other[1]["final_params"])
    again, same = traced(4, 2, 1.0)  # computed before: not compiled again, whatever the Python function's identity
    assert len(compiled) == 4 and again <= 2
    xr.testing.assert_identical(same.drop_attrs(), first[1].drop_attrs())


def test_start_and_segment_are_traced_once(monkeypatch):
    counts, whole = [], Program._sharded

    def counting(self, function, width, donate=None):
        number = len(counts)
        counts.append(0)

        def counted(*arguments):
            counts[number] += 1
            return function(*arguments)

        return whole(self, counted, width, donate)

    monkeypatch.setattr(Program, "_sharded", counting)
    ds = sweep.run(bowl, {"eta": [0.1, 0.2], "run": sweep.Seeds(30)}, seed=0, steps=50, width=2, chunk=8)
    assert (ds["status"] != RUNNING).all()
    assert counts == [1, 1]


def test_lanes_one_by_one_need_no_rule_for_vmap():
    """What decomposes a matrix on a CPU is not vmapped, also not to be measured: a callback without a rule is none."""

    def step(x):
        seen = jax.pure_callback(np.asarray, jax.ShapeDtypeStruct((), x.dtype), jnp.linalg.eigvalsh(x)[0])
        return 0.5 * x, Info(jnp.zeros((), jnp.int32), {"least": seen}, {})

    ds = sweep.run(Process(lambda key: jnp.eye(3), step), {"run": sweep.Seeds(3)}, seed=0, steps=2)
    np.testing.assert_allclose(ds["least"], [[1.0, 0.5, 0.25]] * 3, rtol=1e-6)


def test_no_lane_talks_to_another_device():
    grid = Grid({"eta": [0.1], "run": sweep.Seeds(8)})
    program = Program(saddle, next(grid.blocks()), ["eta"], 10)
    program.compile(program.plan(1, 8, 4))
    text = program._segment.as_text()
    assert len(program.devices) == 2
    for exchange in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert exchange not in text


def test_axes_are_labelled_in_the_order_given():
    axes = {"run": sweep.Seeds(3), "optimizer": {"gd": {"learning_rate": 0.5}, "adam": {"learning_rate": 0.01}}}
    ds = sweep.run(classifier, axes, seed=0, steps=4, record_every=2)
    assert ds["loss"].dims == ("run", "optimizer", "step")
    assert ds["optimizer"].values.tolist() == ["gd", "adam"]
    assert dict(ds["learning_rate"].to_series()) == {"gd": 0.5, "adam": 0.01}
    assert "learning_rate" in ds.coords
    assert ds.attrs["seed"] == 0
    for name in ("versions", "device", "dtype", "revision", "chunk", "config"):
        assert name in ds.attrs


def test_static_axes_and_objects_reach_the_process():
    seen = []

    def process(surface, repeats, eta):
        seen.append((type(surface), repeats))
        return train.make_train(surface, optax.sgd(eta * repeats))

    axes = {
        "surface": {"bowl": problem.quadratic([1.0]), "monkey": problem.monkey_saddle(0.1)},
        "repeats": sweep.Static([1, 2]),
        "eta": np.linspace(0.01, 0.02, 3),
    }
    ds = sweep.run(process, axes, seed=0, steps=2)
    assert ds["loss"].shape == (2, 2, 3, 3)
    assert {r for _, r in seen} == {1, 2}
    first = ds["loss"].sel(surface="bowl").isel(step=[0, 1])
    factor = (1 - ds["eta"] * ds["repeats"]) ** 2  # the loss ½x² after one step
    measured = first.isel(step=1, drop=True) / first.isel(step=0, drop=True)
    np.testing.assert_allclose(measured, factor.transpose(*measured.dims), rtol=1e-5)


def test_many_short_rows_in_one_chunk_land_in_their_places():
    """A chunk of several rows is written row by row; the closed form knows where each number belongs."""
    axes = {"eta": np.linspace(0.01, 0.3, 7), "curvature": np.linspace(0.1, 1, 5), "run": sweep.Seeds(2)}
    for chunk in (3, 7, 14, 21, 1000):
        ds = sweep.run(bowl, axes, seed=4, steps=5, chunk=chunk, width=1)
        exact = (1 - ds["eta"] * ds["curvature"]) ** (2 * ds["step"])
        xr.testing.assert_allclose(
            (ds["loss"] / ds["loss"].isel(step=0)).transpose(*exact.dims, "run"),
            exact.broadcast_like(ds["loss"]).transpose(*exact.dims, "run"),
            rtol=1e-4,
        )


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        ({"eta": []}, ValueError, r"axes\['eta'\]: expected a non-empty"),
        ({"eta": "gd"}, TypeError, r"axes\['eta'\]: expected Seeds"),
        ({"eta": 3}, TypeError, r"axes\['eta'\]: expected Seeds"),
        ({"eta": [0.1, float("nan")]}, ValueError, r"expected finite numbers, got nan"),
        ({"eta": ["a", "a"]}, ValueError, r"expected different values"),
        ({"eta": [True, False]}, TypeError, r"values of type bool"),
        ({"step": [1.0]}, ValueError, r"expected names that are identifiers"),
        ({"eta": {}}, ValueError, r"at least one value"),
        ({"run": sweep.Seeds(10**11)}, ValueError, r"at most 100,000,000 runs in one sweep, got 100,000,000,000"),
        ({"optimizer": {"a": {"eta": 1.0}}, "eta": [1.0]}, ValueError, r"'eta' is given twice"),
    ],
)
def test_bad_axes_are_named(axes, error, message):
    with pytest.raises(error, match=message):
        sweep.run(bowl, axes, seed=0, steps=3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed: expected an integer >= 0, got -1"),
        ({"seed": 2**32}, ValueError, "seed: expected an integer in"),
        ({"steps": 2**31 - 1}, ValueError, "record_every: expected at least 215 for 2147483647 steps, got 1"),
        ({"out": 5}, TypeError, "out: expected a path or None, got int 5"),
        ({"config": {"a": object()}}, TypeError, "config: expected plain data"),
        ({"steps": 0}, ValueError, "steps: expected an integer >= 1, got 0"),
        ({"steps": 2.5}, TypeError, "steps: expected an integer"),
        ({"record_every": 0}, ValueError, "record_every: expected"),
        ({"width": 0}, ValueError, "width: expected"),
        ({"chunk": -4}, ValueError, "chunk: expected"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        sweep.run(bowl, {"eta": [0.1]}, **({"seed": 0, "steps": 3} | arguments))


def test_a_bare_pair_cannot_vary_and_a_non_pair_is_refused():
    with pytest.raises(TypeError, match="got a bare pair"):
        sweep.run(saddle(0.1), {"eta": [0.1]}, seed=0, steps=3)
    with pytest.raises(TypeError, match=r"returns a pair \(init, step\), got float"):
        sweep.run(lambda eta: 1.0, {"eta": [0.1]}, seed=0, steps=3)


def test_a_step_that_changes_the_state_is_refused():
    def init(key):
        return jnp.zeros(3)

    def info(done):
        return Info(done, {}, {})

    go_on = jnp.zeros((), jnp.int32)
    for step in (
        lambda s: (s[:2], info(go_on)),
        lambda s: ((s, s), info(go_on)),
        lambda s: (s > 0, info(go_on)),
        lambda s: (s, info(jnp.zeros(()))),
        lambda s: (s, info(jnp.zeros(2, jnp.int32))),
    ):
        with pytest.raises(TypeError, match="process: expected step to return a state like the one it takes"):
            sweep.run(Process(init, step), {"run": sweep.Seeds(2)}, seed=0, steps=3)


def test_a_record_without_numbers_and_an_unknown_status_are_refused():
    def made(done, record):
        return Process(lambda key: jnp.zeros(3), lambda s: (s + 1, Info(jnp.asarray(done, jnp.int32), record, {})))

    with pytest.raises(TypeError, match=r"records that hold a number, 'x' has shape \(0,\)"):
        sweep.run(made(0, {"x": jnp.zeros(0)}), {}, seed=0, steps=3)
    for code in (7, -1):
        with pytest.raises(ValueError, match=rf"expected done to be 0 to 3 .*got {code}"):
            sweep.run(made(code, {}), {}, seed=0, steps=3)


def test_a_state_with_empty_arrays_runs_as_without_on_every_device():
    """A net without hidden biases, say; the lanes end at different times, so packs are closed up on the way."""

    def made(*empty):
        def init(key):
            return jax.random.normal(key), *empty

        def step(state):
            x, *rest = state
            done = jnp.where(jnp.abs(x) < 1e-3, CONVERGED, RUNNING).astype(jnp.int32)
            return (0.5 * x, *rest), Info(done, {"x": x}, {"last": x})

        axes = {"run": sweep.Seeds(40)}
        return sweep.run(Process(init, step), axes, seed=0, steps=20, width=2, segment=2)

    plain, empty = made(), made(jnp.zeros((0, 3)), jnp.zeros((2, 0), jnp.int32))
    assert len(np.unique(plain["steps"])) > 2
    for name in ("x", "final_last", "steps", "status"):
        np.testing.assert_array_equal(empty[name], plain[name])


@pytest.mark.parametrize("name", ["a/b", "status", "run", "step"])
def test_records_need_names_of_their_own(name):
    made = train.make_train(problem.quadratic([1.0]), optax.sgd(0.1), probe=lambda p: {name: p[0]})
    with pytest.raises(ValueError, match="process: expected records whose names are identifiers of their own"):
        sweep.run(made, {"run": sweep.Seeds(2)}, seed=0, steps=3)


def test_no_axes_are_one_run():
    ds = sweep.run(saddle(0.1), {}, seed=0, steps=4)
    assert ds["loss"].dims == ("step",)
    np.testing.assert_allclose(
        ds["final_params"], np.array([1.1, 0.9]) ** 4 * saddle(0.1).init(key_of(0, 0)).params, rtol=1e-6
    )


def test_kinds_that_record_different_things_are_refused():
    def process(kind):
        probe = {"a": lambda p: {"first": p[0]}, "b": lambda p: {"second": p[1]}}[kind]
        return train.make_train(problem.quadratic([1.0, 1.0]), optax.sgd(0.1), probe=probe)

    with pytest.raises(ValueError, match=r"process: expected the same records for every kind.*second"):
        sweep.run(process, {"kind": ["a", "b"], "run": sweep.Seeds(2)}, seed=0, steps=3)


def test_lanes_that_decompose_matrices_run_one_after_the_other(x64):
    """Batches of LAPACK on two devices wait for each other for ever in jaxlib 0.10.2, from about this size."""
    key = jax.random.key(0)

    def step(matrix):
        values = jnp.linalg.eigvalsh(matrix + matrix.T)
        return matrix + 1, Info(jnp.zeros((), jnp.int32), {}, {"values": values})

    made = Process(lambda key: jax.random.normal(key, (50, 50)), step)
    for seed in (3, 2, 1, 0):
        ds = sweep.run(made, {"run": sweep.Seeds(128)}, seed=seed, steps=2, width=64)
    for run in (0, 65, 127):
        matrix = jax.random.normal(jax.random.fold_in(key, run), (50, 50)) + 2
        np.testing.assert_allclose(ds["final_values"][run], np.linalg.eigvalsh(matrix + matrix.T), atol=1e-11)


def test_the_same_computation_under_other_names_is_another_program():
    def named(record):
        def process(**numbers):
            [rate] = numbers.values()
            return Process(
                lambda key: jnp.ones(3), lambda s: (s * rate, Info(jnp.zeros((), jnp.int32), {record: s[0]}, {}))
            )

        return process

    for axis, record in (("rate", "x"), ("speed", "x"), ("speed", "y"), ("rate", "x")):
        ds = sweep.run(named(record), {axis: [0.5, 2.0]}, seed=0, steps=2)
        assert ds[record].dims == (axis, "step")
        np.testing.assert_array_equal(ds[record], [[1, 0.5, 0.25], [1, 2, 4]])


def test_processes_that_use_different_axes_are_different_programs():
    def process_of(used):
        def factory(a, b):
            level = {"a": a, "b": b}[used] * jnp.ones(())
            return Process(lambda key: level, lambda x: (x, Info(jnp.int32(RUNNING), {"x": x}, {})))

        return factory

    axes = {"a": [1.0, 2.0], "b": [10.0, 20.0]}
    expected = dict(zip(axes, np.meshgrid(*axes.values(), indexing="ij"), strict=True))
    for used in axes:
        ds = sweep.run(process_of(used), axes, seed=0, steps=1)
        np.testing.assert_array_equal(ds["x"].isel(step=0), expected[used])


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 60), st.integers(1, 25), st.integers(0, 70))
def test_every_record_stands_at_its_place(interval, times, steps, looks, segment):
    """Which looks of a segment are kept, and where, against the definition."""
    every = interval * times
    engine = sweep._Engine(None, None, None, None, sweep.record_times(steps, every), None, every)
    kept, places = engine._kept(Plan(1, 1, interval, looks, 1.0, 1), segment)
    at = (segment * looks + np.arange(looks)) * interval
    expected = np.flatnonzero((at % every == 0) & (at < steps))
    np.testing.assert_array_equal(np.arange(looks)[kept], expected)
    np.testing.assert_array_equal(np.arange(10_000)[places], at[expected] // every)
