"""The benchmarks at a tiny size: what they report is measured, and a wrong answer is not called right."""

from __future__ import annotations

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console

from experiments.benchmarks import critical, curvature, path
from jaxsoft import data, problem


def tiny(**changes):
    return curvature.Config(cases=(("10-5-10", 1), ("10-5-10", 3)), repeats=2, least_time=0.0, peer_points=2, **changes)


@pytest.fixture
def compiled_once(tmp_path):
    """The benchmark forgets what it compiled between its tools; here it is read back from disk."""
    names = {"jax_compilation_cache_dir": str(tmp_path), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in names}
    for values in (names, before):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is names:
            yield


def test_every_installed_tool_is_accurate_and_has_its_ratio(x64, compiled_once, monkeypatch):
    matfree = dataclasses.replace(curvature.TOOLS["matfree"], efforts=lambda *of: curvature.depths(*of)[-1:])
    monkeypatch.setitem(curvature.TOOLS, "matfree", matfree)  # its greatest depth: each is a compilation
    config = tiny(tools=("jaxsoft", "matfree", "jax.hessian", "pyhessian"))
    out = io.StringIO()
    rows = curvature.main(config, Console(file=out, width=150))
    ours = [row for row in rows if row.tool == "jaxsoft"]
    assert len(ours) == 2 * len(curvature.TASKS)
    for row in ours:
        assert row.good
        assert len(row.warm) == 2
        assert 0 < min(row.warm) < row.cold
    assert {row.verdict for row in ours if row.task == curvature.INDEX} == {"certified"}
    assert all(row.good for row in rows if row.tool == "jax.hessian")
    # Lanczos of full depth loses digits of the inner eigenvalues; the extreme ones are what it is for.
    extreme = (curvature.LARGEST, curvature.LOWEST)
    assert all(row.good for row in rows if row.tool == "matfree" and row.task in extreme)
    multiplied = [row for row in rows if row.tool == "matfree" and "3 points" in row.case]
    assert {row.calls for row in multiplied} == {"2 points x 1.5"}
    curvature.show(rows, Console(file=out, width=150))
    assert "best peer" in out.getvalue()


def test_wrong_answers_are_not_good():
    config = tiny()
    values = np.linspace(-1.0, 2.0, 8)
    known = [(np.diag(values), values)]
    unit = np.eye(8)
    right = curvature.Found(values[None, -5:], unit[None, :, -5:])
    assert curvature.judge(right, curvature.LARGEST, known, config)[0] < 1e-15
    others = curvature.Found(values[None, :5], unit[None, :, :5])  # eigenpairs, but not those that were meant
    assert curvature.judge(others, curvature.LARGEST, known, config)[0] > 0.5
    turned = curvature.Found(values[None, -5:], unit[None, :, :5])  # the right values with wrong vectors
    assert curvature.judge(turned, curvature.LARGEST, known, config)[0] > 0.5
    negative = int(np.sum(values < 0))
    for index, good in ((negative, True), (negative - 1, False)):
        error, verdict = curvature.judge(curvature.Found(index=np.array([index])), curvature.INDEX, known, config)
        assert curvature.is_good(error, verdict, config.tol) is good
    lost = curvature.Found(np.full((1, 5), np.nan))
    assert curvature.judge(lost, curvature.LARGEST, known, config) == (np.inf, "not converged")


def test_single_precision_is_refused():
    with pytest.raises(ValueError, match="jax_enable_x64"):
        curvature.main(tiny())


SEARCHES = critical.Config(hidden=2, seeds=8, near=6, random=2, peer_starts=1, max_steps=15, repeats=1)


def test_searches_from_near_critical_points_arrive_and_are_counted(x64, quick_compilation):
    rows = critical.main(dataclasses.replace(SEARCHES, tools=("jaxsoft",)))
    near, random = rows
    assert (near.kind, near.searches, random.searches) == ("near critical points", 6, 2)
    assert near.critical > 0
    assert all(rate > 0 for row in rows for rate in row.steps_per_second)
    out = io.StringIO()
    critical.show(rows, Console(file=out, width=150))
    assert f"{near.critical} of 6" in out.getvalue()


def test_the_published_search_is_newtons_and_says_how_many_steps_it_took(x64):
    values, start = np.array([3.0, -1.0, 0.5]), np.array([0.1, 0.2, -0.3])
    config = dataclasses.replace(SEARCHES, solver_tol=1e-12)
    norm, steps = critical.published_search(lambda t: values * t, lambda t, v: values * v, start, config)
    assert (norm < 1e-8, steps) == (True, 1)  # a quadratic: the saddle in one step
    # At the least |g| no step lowers it, whatever a wrong product says.
    lowest = critical.published_search(lambda t: np.array([1.0 + (t @ t > 0)]), lambda t, v: v, np.zeros(1), config)
    assert lowest == (1.0, 0)

    def monkey(t):
        return problem.monkey_saddle().loss(t)

    gradient, hessian = jax.jit(jax.grad(monkey)), jax.jit(jax.hessian(monkey))
    far = jnp.array([0.3, 0.4])
    norm, steps = critical.published_search(
        lambda t: np.asarray(gradient(t)), lambda t, v: np.asarray(hessian(t)) @ v, np.asarray(far), config
    )
    # Newton halves the distance from a cubic saddle each step, so a quarter of |g| is left: |g| = 3 r², r = 1/2.
    assert norm <= config.tol
    assert steps == int(np.ceil(np.log(0.75 / config.tol) / np.log(4)))


def test_both_tools_find_the_same_critical_points(x64, quick_compilation):
    pytest.importorskip("autograd")
    rows = critical.main(dataclasses.replace(SEARCHES, near=2, peer_starts=2))
    ours, theirs = rows[:2]
    assert (ours.tool, theirs.tool) == ("jaxsoft", "autograd")
    assert ours.critical == theirs.critical > 0


PATH = path.Config(datasets=("iris",), stride=(("iris", "lbfgs", 2),), values=5, smallest=1e-2, threads=(1,), repeats=1)


def test_both_sides_of_the_path_reach_the_optimum_and_have_their_ratio(x64, quick_compilation, tmp_path):
    rows = path.main(PATH)
    assert [(row.tool, row.fitted) for row in rows] == [("jaxsoft", 5), ("lbfgs", 2), ("newton-cholesky", 5)]
    assert all(-1e-12 <= row.excess <= PATH.rtol for row in rows)
    assert path.ratios(rows, rows[1]) == [rows[1].warm[0] / rows[0].warm[0]]
    path.save(rows, PATH, tmp_path / "path.json")
    assert len(json.loads((tmp_path / "path.json").read_text())["rows"]) == 3
    out = io.StringIO()
    path.show(rows, Console(file=out, width=150))
    assert "newton-cholesky" in out.getvalue()


def test_the_loss_of_a_path_is_the_problems_own(x64):
    from jaxsoft import models

    examples, points = data.iris(), np.random.default_rng(0).normal(size=(1, 15))
    made = problem.classification(models.softmax_regression(4, 3), examples, 0.3)
    params = (models.Layer(jnp.asarray(points[0, :12].reshape(3, 4)), jnp.asarray(points[0, 12:])),)
    np.testing.assert_allclose(path.losses(examples, np.array([0.3]), points)[0], made.loss(params), rtol=1e-12)
