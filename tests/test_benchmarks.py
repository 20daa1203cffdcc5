"""The benchmarks at a tiny size: what they report is measured, and a wrong answer is not called right."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console

from experiments.benchmarks import (
    critical,
    curvature,
    extras,
    first_result,
    items,
    jax_sides,
    path,
    race,
    sweeps,
    worker,
)
from experiments.benchmarks.timing import in_turn
from jaxsoft import cli, data, problem


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


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph:UserWarning")  # pyhessian does
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
        assert min(row.warm) > 0
    assert sum(min(row.warm) for row in ours) < sum(row.cold for row in ours)  # first calls compile
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


# Sweeps beside other sides. The processes of the sides are played by this one, but for one test.


class Here:
    """Answers in this process, by way of the same lines as over a pipe."""

    def __init__(self, side):
        self.answering = worker.Side(side)

    def ask(self, do, **request):
        with jax.numpy_rank_promotion("allow"):  # peers are written as usual
            return json.loads(next(worker.serve(self.answering, iter([json.dumps({"do": do, **request})]))))

    def __enter__(self):
        return self

    def __exit__(self, *of):
        pass


TINY_LIMITS = {"window": 0.0, "gemm_size": 64, "elements": 256, "stream": 4096}
TINY = {
    item.name: dataclasses.replace(
        item, runs=3, steps=28 if item.batch else 4, amounts={"torch.func": (2, 28 if item.batch else 3)}
    )
    for item in items.QUICK
}


@pytest.mark.parametrize("item", TINY.values(), ids=TINY)
def test_every_side_does_the_same_work(item, quick_compilation):
    rows = {side: Here(side) for side in worker.SIDES if not race.not_installed(side)}
    assert {"jaxsoft", "plain"} <= set(rows)
    for row in race.race(item, rows, TINY_LIMITS, repeats=2, rest=0.0):
        assert row.valid, row
        assert row.difference == 0.0 if row.side == "jaxsoft" else row.difference < race.SAME_WITH_BATCHES
        assert len(row.seconds) == len(row.rates) == 2
        assert len(row.ratios) == (0 if row.side == "jaxsoft" else 2)
        assert len(row.shares) == len(row.xla_shares) == 2
        assert min(row.xla_shares) > 0
        if row.side == "jaxsoft":  # a round's share is that of its own limits
            needed = items.work(item, row.limits[0]["machine"].cache_bytes)
            limits = [now["machine"].seconds(needed) for now in row.limits]
            assert row.shares == tuple(s * rate for s, rate in zip(limits, row.rates, strict=True))


def test_a_side_that_computes_something_else_is_found(quick_compilation):
    item = TINY["a"]
    start = jax_sides.initial(item, item.runs)
    with jax.numpy_rank_promotion("allow"):
        ours = jax_sides.plain(item, start)()
        other = jax_sides.plain(dataclasses.replace(item, learning_rate=1.5 * item.learning_rate), start)()
    assert race.difference(item, ours, ours) == 0.0
    assert race.difference(item, ours, other) > race.SAME
    assert race.difference(item, ours, np.full_like(ours, np.nan)) == np.inf
    assert race.difference(item, ours, ours[:2, :3]) == 0.0  # a slower side has fewer runs and steps


def test_the_work_is_what_the_compiler_counts():
    for item in (TINY["b"], TINY["d"]):
        params = [[leaf[0] for leaf in layer] for layer in jax_sides.by_rows(jax_sides.initial(item, 1))]
        with jax.numpy_rank_promotion("allow"):
            counted = jax.jit(jax.value_and_grad(jax_sides.plain_loss(item))).lower(params).cost_analysis()
        work = items.work(item, 2**30)
        # What is done element by element comes on top: most for the linear net, a few operations an entry of z.
        assert work.matmul_flops < counted["flops"] < 1.2 * work.matmul_flops
        # The compiler may count an exp of the forward pass again in the backward one.
        functions = work.tanh + work.exp + work.log
        assert functions <= counted["transcendentals"] <= functions + work.exp + work.log
    assert items.work(TINY["b"], 2**30).memory_bytes == 8  # the records
    assert items.work(TINY["b"], 2**10).memory_bytes > 8 + 2 * 4 * 4 * 2410  # and all that does not fit


def test_the_limits_are_measured():
    found = Here("jaxsoft").ask("limits", **TINY_LIMITS)
    machine, xla = (items.Limits(**found[name]) for name in ("machine", "xla"))
    for rate in ("gemm", "tanh", "exp", "log", "bandwidth"):
        assert getattr(machine, rate) >= getattr(xla, rate) > 0
    work = items.Work(10, 4, 3, 2, 8)
    assert items.Limits(10.0, 4.0, 3.0, 2.0, 8.0, 1).seconds(work) == 5.0


def test_many_optimizers_in_one_sweep_are_those_of_separate_ones(quick_compilation):
    item = dataclasses.replace(items.GRID, runs=1, steps=2)
    rows = race.many_optimizers(item, 2, 1, Here)
    assert [row.side for row in rows] == ["one sweep", "separate sweeps", "separate programs"]
    assert all(row.valid and row.compile > 0 for row in rows)
    assert len(set(extras.OPTIMIZERS)) == 20


def test_memory_of_a_run_and_of_its_records(quick_compilation):
    held = race.memory(TINY["a"], 4, 4, 2, Here)
    assert held.record_bytes == 2 * 4 * 3  # at the steps 0, 2 and 4
    assert held.state_bytes >= 3 * 4 * 51  # parameters and two moments
    assert 0 < held.before <= held.peak


def test_time_to_first_result_empties_and_fills_the_cache(monkeypatch):
    asked = []
    monkeypatch.setattr(first_result, "command", lambda arguments, environment: asked.append((arguments, environment)))
    rows = race.time_to_first_result(sweeps.Config().first, 2)
    assert [len(row.seconds) for row in rows] == [2, 2, 2, 2]
    outs = [arguments[-1] for arguments, _ in asked if "sweep" in arguments]
    assert len(set(outs)) == len(outs) == 7  # one to fill the cache, and two of three kinds
    caches = [environment.get("JAX_COMPILATION_CACHE_DIR") for _, environment in asked]
    assert caches.count(caches[0]) == 3  # what the first filled
    assert caches.count(None) == 4  # two sweeps without, and imports
    parsed = cli.parse(["sweep", *sweeps.Config().first])
    assert parsed.inits * len(parsed.optimizers) == 64
    monkeypatch.undo()
    with pytest.raises(subprocess.CalledProcessError):
        first_result.command(["-c", "raise SystemExit(2)"], {})


def test_a_side_lives_in_a_process_of_its_own(monkeypatch):
    with worker.Process("plain") as process:
        assert process.ask("peak")["bytes"] > 0
        with pytest.raises(ChildProcessError, match="plain"):
            process.ask("nothing of the kind")
    monkeypatch.setattr(worker, "NEEDS", {"plain": ("a_module_of_no_one",)})
    monkeypatch.setattr(race, "NEEDS", worker.NEEDS)
    assert race.not_installed("plain") == "a_module_of_no_one not installed"


def test_calls_in_turn_go_forwards_and_backwards():
    order = []
    calls = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    assert in_turn(calls, 2) == {"a": [1, 6], "b": [2, 5], "c": [3, 4]}
    assert order == [*"abc", *"cba"]


def measured(ratio=1.0, **changes):
    ours = race.Row("a", "(a)", "jaxsoft", seconds=(1.0,), rates=(2.0,), shares=(0.1, 0.5, 0.7))
    peer = dataclasses.replace(ours, side="plain", ratios=(9.0, ratio, 0.1), difference=0.0, **changes)
    absent = race.Row("a", "(a)", "torch.func", note="torch not installed")
    held = race.Memory("runs", 2, 8, 8, 10**8, 2 * 10**8)
    return sweeps.Results({}, [ours, peer, absent], [held])


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (measured(), []),
        (measured(0.99), ["speed over plain 0.99 [0.1-9], expected at least 1"]),
        (measured(np.nan), ["speed over plain"]),
        (measured(valid=False), ["does not compute the same"]),
    ],
)
def test_what_is_under_its_floor_makes_the_exit_code_1(results, said, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sweeps, "main", lambda config, console: results)
    monkeypatch.setattr(sweeps, "FLOORS", {("a", "plain"): 1.0, ("a", "torch.func"): 1.0, ("a", sweeps.SHARE): 0.5})
    out = io.StringIO()
    assert sweeps.run(["--quick", "--out", str(tmp_path)], Console(file=out, width=160)) == (1 if said else 0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(said)
    assert all(text in line for text, line in zip(said, lines, strict=True))
    kept = json.loads((tmp_path / "bench_quick.json").read_text())
    assert kept["failures"] == lines
    assert kept["rows"][1]["side"] == "plain"
    sweeps.show(results.rows, Console(file=out, width=160))
    assert "torch not installed" in out.getvalue()
    assert ("INVALID" in out.getvalue()) is (not results.rows[1].valid)


def test_a_share_of_the_limit_and_memory_have_bounds_too():
    results = measured()
    assert len(sweeps.failures(results, {("a", sweeps.SHARE): 0.51})) == 1
    heavy = dataclasses.replace(results, memory=[dataclasses.replace(results.memory[0], peak=3 * 10**9)])
    assert "expected at most 2 GB" in "".join(sweeps.failures(heavy, {}))


def test_every_ratio_has_a_floor():
    peers = {side for side in worker.SIDES if side != race.OURS}
    for item in (*items.FULL, *items.QUICK):
        assert {to for name, to in sweeps.FLOORS if name == item.name} == {*peers, sweeps.SHARE}


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
