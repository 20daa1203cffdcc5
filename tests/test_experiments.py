"""Every experiment runs at a tiny size, its claims can fail, and a planted fault makes them fail."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
import xarray as xr

from experiments import (
    autoencoder_critical_points,
    baldi_hornik,
    bulk_and_outliers,
    chain_of_saddles,
    committee_plateau,
    convex_softmax_regression,
    deep_linear_stages,
    degenerate_points,
    edge_of_stability,
    escape_against_scale,
    escape_law,
    forecast_against_fact,
    index_against_energy,
    index_against_loss,
    index_in_twenty_thousand,
    lecture_width,
    no_local_optima_in_softmax_regression,
    separable_tail,
    share_of_minima,
    which_optimizer_leaves_first,
    zero_saddle_index,
)
from experiments.claim import Claim
from jaxsoft import theory
from jaxsoft.plateau.linear import Linear

TINY = escape_against_scale.TINY


@pytest.fixture(scope="module")
def results():
    return escape_against_scale.main(TINY)


def test_the_plateau_lengthens_by_the_steps_of_theory(results):
    for claim in escape_against_scale.claims(results, TINY):
        assert claim.passed, claim


@pytest.mark.parametrize("fault", [0.5, 2.0])
def test_a_wrong_theory_is_caught(results, monkeypatch, fault):
    right = theory.zero_saddle_rates
    monkeypatch.setattr(theory, "zero_saddle_rates", lambda *a: fault * right(*a))
    verdicts = [claim.passed for claim in escape_against_scale.claims(results, TINY)]
    assert verdicts == [False, False, True]


def test_the_picture_has_labels_and_the_line_of_theory(results):
    ax = escape_against_scale.plot(results, TINY)
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    slope = escape_against_scale.steps_per_decade(TINY)["gd"]
    line = next(line for line in ax.get_lines() if line.get_color() == "black")
    _, y = line.get_data()
    assert abs((y[0] - y[1]) / 2 - slope) < 1e-9 * slope  # two decades apart


def test_a_claim_computes_its_own_verdict():
    assert Claim("a", "b", 10.0, 10.2, 0.03).passed
    assert not Claim("a", "b", 10.0, 10.4, 0.03).passed
    assert not Claim("a", "b", 10.0, float("nan"), 0.03).passed


FOUND_ELSEWHERE = ("the lecture", "Cohen", "Frye", "Gur-Ari", "Papyan", "Yoshida")  # no theorems


def verdicts(experiment, config, results):
    made = experiment.claims(results, config)
    assert all(claim.reported for claim in made if claim.source.startswith(FOUND_ELSEWHERE))
    return [claim.passed for claim in made]


def names(experiment, config, results):
    """Of every claim: they must be the same whatever was measured, or two runs cannot be compared."""
    return [claim.name for claim in experiment.claims(results, config)]


def test_softmax_regression_has_index_zero_and_keeps_its_bound(x64, monkeypatch):
    config = convex_softmax_regression.TINY
    results = convex_softmax_regression.main(config)
    assert all(verdicts(convex_softmax_regression, config, results))
    assert convex_softmax_regression.plot(results, config).get_xlabel()
    nothing = results.assign(final_undecided=results["final_undecided"] + results["final_positive"])
    assert not all(verdicts(convex_softmax_regression, config, nothing))  # an empty certificate is no proof
    right = theory.bohning_bound
    monkeypatch.setattr(theory, "bohning_bound", lambda *a: 0.1 * right(*a))  # a bound that is too small
    results = convex_softmax_regression.main(config)
    assert not all(verdicts(convex_softmax_regression, config, results))


def test_the_index_of_the_zero_saddle_at_small_widths(x64, monkeypatch):
    config = zero_saddle_index.TINY
    results = zero_saddle_index.main(config)
    assert all(verdicts(zero_saddle_index, config, results))
    assert zero_saddle_index.plot(results, config).get_xlabel()
    right = theory.zero_saddle_rates
    monkeypatch.setattr(theory, "zero_saddle_rates", lambda *a: 1.01 * right(*a)[:1])
    assert verdicts(zero_saddle_index, config, results) == [False, True, True, False]


def test_every_critical_point_of_a_small_autoencoder(x64, monkeypatch):
    config = baldi_hornik.TINY
    results = baldi_hornik.main(config)
    assert results["random 4 x 5"].sizes["point"] == 15
    assert all(verdicts(baldi_hornik, config, results))
    assert baldi_hornik.plot(results, config).get_xlabel()
    right = theory.baldi_hornik
    monkeypatch.setattr(theory, "baldi_hornik", lambda *a: (right(*a)[0] + 1, right(*a)[1]))
    assert not verdicts(baldi_hornik, config, baldi_hornik.main(config))[0]


def test_the_autoencoder_of_the_digits_has_2517_critical_points():
    assert len(baldi_hornik.subsets(16, 4)) == 2517


def test_the_index_of_a_wide_net_at_a_small_width_resumes(x64, tmp_path, monkeypatch):
    config = index_in_twenty_thousand.TINY
    kept = tmp_path / "kept.json"
    results = index_in_twenty_thousand.main(config, kept=kept)
    assert all(verdicts(index_in_twenty_thousand, config, results))
    assert index_in_twenty_thousand.plot(results, config).get_xlabel()
    for name, wrong in [("negative", 21), ("null", 4), ("undecided", 1)]:  # h (d + 1) = 20 ways down at most
        spoilt = results | {"step 30": results["step 30"] | {name: wrong}}
        assert not all(verdicts(index_in_twenty_thousand, config, spoilt))
    monkeypatch.setattr(index_in_twenty_thousand, "measure", None)  # nothing is measured again
    assert index_in_twenty_thousand.main(config, kept=kept) == results
    with pytest.raises(TypeError):
        index_in_twenty_thousand.main(replace(config, seed=1), kept=kept)


def test_outliers_and_overlap_at_a_small_size(x64):
    config = bulk_and_outliers.TINY
    results = bulk_and_outliers.main(config)
    by_name = {claim.name: claim for claim in bulk_and_outliers.claims(results, config)}
    assert by_name["6 blobs: outliers, C - 1"].passed
    assert len(verdicts(bulk_and_outliers, config, results)) == len(by_name)
    assert [claim.expected for name, claim in by_name.items() if "threshold" in name] == [0.8, 0.05]
    assert 0 <= bulk_and_outliers.late(results, "8") <= 1
    assert bulk_and_outliers.plot(results, config).get_xlabel()
    assert bulk_and_outliers.outliers(np.array([9.0, 8.0, 1.0, 0.9])) == 2
    assert bulk_and_outliers.outliers(np.array([9.0, 8.0, 1.0, 0.9, 0.0, -1e-9])) == 2
    assert bulk_and_outliers.outliers(np.array([-1.0, -2.0])) == 0


def test_softmax_regression_has_one_minimum_or_none(x64, quick_compilation):
    config = no_local_optima_in_softmax_regression.TINY
    results = no_local_optima_in_softmax_regression.main(config)
    assert all(verdicts(no_local_optima_in_softmax_regression, config, results))
    assert no_local_optima_in_softmax_regression.plot(results, config).get_xlabel()
    config = replace(config, pair=(1, 2))  # these two no plane separates
    results = no_local_optima_in_softmax_regression.main(config)
    by_name = {claim.name: claim for claim in no_local_optima_in_softmax_regression.claims(results, config)}
    assert by_name["separable: ends called critical, saddle_free"].measured == 12
    assert not by_name["separable: on the way to infinity, saddle_free"].passed


def test_searches_find_the_critical_points_of_theory_and_no_others(x64, quick_compilation, monkeypatch):
    config = autoencoder_critical_points.TINY
    results = autoencoder_critical_points.main(config)
    assert (results["status"].sel(search="saddle_free") == "critical").all()
    assert all(verdicts(autoencoder_critical_points, config, results))
    assert autoencoder_critical_points.plot(results, config).get_xlabel()
    nothing = results.assign(status=results["status"].where(results["status"] != "critical", "failed"))
    assert not verdicts(autoencoder_critical_points, config, nothing)[0]  # nothing found, nothing shown
    assert names(autoencoder_critical_points, config, nothing) == names(autoencoder_critical_points, config, results)
    right = theory.baldi_hornik
    monkeypatch.setattr(theory, "baldi_hornik", lambda *a: (right(*a)[0] + 1, right(*a)[1]))
    assert not verdicts(autoencoder_critical_points, config, results)[1]


def test_the_index_on_a_small_random_surface_follows_its_energy(x64, quick_compilation, monkeypatch):
    config = index_against_energy.TINY
    results = index_against_energy.main(config)
    made = index_against_energy.claims(results, config)
    assert made[0].passed  # of every eigenvector, whatever was found
    assert made[1].measured <= 1
    assert index_against_energy.plot(results, config).get_xlabel()
    wrong = results._replace(eigenvalues=results.eigenvalues[::-1])
    assert not index_against_energy.claims(wrong, config)[0].passed


def test_split_units_and_flat_saddles_are_degenerate(x64, quick_compilation, monkeypatch):
    config = degenerate_points.TINY
    results = degenerate_points.main(config)
    assert all(verdicts(degenerate_points, config, results))
    assert degenerate_points.plot(results, config).get_xlabel()
    right = degenerate_points.split
    monkeypatch.setattr(degenerate_points, "split", lambda *a: jax.tree.map(lambda x: 1.001 * x, right(*a)))
    assert not verdicts(degenerate_points, config, degenerate_points.main(config))[0]  # beside the line


def test_the_index_rises_with_the_loss_and_a_falling_one_is_caught(x64, quick_compilation):
    config = index_against_loss.TINY
    results = index_against_loss.main(config)
    assert all(verdicts(index_against_loss, config, results))
    assert index_against_loss.plot(results, config).get_xlabel()
    upside_down = results.assign(negative=results["negative"].max() - results["negative"])
    assert verdicts(index_against_loss, config, upside_down)[:2] == [False, False]
    nothing = results.assign(status=results["status"].where(results["status"] != "critical", "failed"))
    assert not verdicts(index_against_loss, config, nothing)[0]
    assert len({tuple(names(index_against_loss, config, r)) for r in (results, upside_down, nothing)}) == 1
    assert index_against_loss.plot(nothing, config).get_title()
    small, large = np.asarray(index_against_loss.starts(config)[0].weight[:6]).reshape(2, 3, -1)
    assert not np.allclose(small / config.scales[0], large / config.scales[1])  # other draws, not the same enlarged
    rows = {"loss": [1.0, 1.0, 1.0], "negative": [2, 2, 2], "status": ["critical"] * 3, "point": [0, 1, 1]}
    twins = xr.Dataset({k: ("start", v) for k, v in rows.items()}, attrs={"parameters": 4})
    assert len(index_against_loss.points(twins, only_critical=True)[0]) == 2  # of one loss and index, but not copies


def test_the_laws_of_the_quadratic_saddle_and_a_wrong_one(x64, monkeypatch):
    config = escape_law.TINY
    results = escape_law.main(config)
    assert all(verdicts(escape_law, config, results))
    assert escape_law.plot(results, config).get_xlabel()
    right = theory.escape_time_cdf
    monkeypatch.setattr(theory, "escape_time_cdf", lambda t, growth, ratio, k: right(t, growth, ratio, k + 1))
    assert not verdicts(escape_law, config, results)[2]


def test_stages_plateau_and_tail_of_deep_linear_nets(x64, monkeypatch):
    config = deep_linear_stages.TINY
    results = deep_linear_stages.main(config)
    made = deep_linear_stages.claims(results, config)
    assert [claim.passed for claim in made if "s/2" not in claim.name or "L = 3" in claim.name] == [True] * 5
    assert deep_linear_stages.plot(results, config).get_xlabel()
    right = theory.softmax_time
    monkeypatch.setattr(theory, "softmax_time", lambda u, *rest: 1.01 * right(u, *rest))
    assert verdicts(deep_linear_stages, config, results)[-2:] == [False, True]


def test_saddles_in_sequence_slow_gradient_descent_and_not_noise(x64, monkeypatch):
    config = chain_of_saddles.TINY
    results = chain_of_saddles.main(config)
    made = chain_of_saddles.claims(results, config)
    assert made[0].passed
    assert made[-1].passed
    assert abs(made[2].measured - made[2].expected) < 0.25 * made[2].expected  # 8 runs only
    assert chain_of_saddles.plot(results, config).get_xlabel()
    right = theory.chain_stage_times
    monkeypatch.setattr(theory, "chain_stage_times", lambda ratios, up, down: right(ratios, 0.8 * up, down))
    assert not chain_of_saddles.claims(results, config)[0].passed


def test_a_committee_waits_at_the_height_of_theory(x64, monkeypatch):
    config = committee_plateau.TINY
    results = committee_plateau.main(config)
    assert all(verdicts(committee_plateau, config, results))
    assert committee_plateau.plot(results, config).get_xlabel()
    student = np.random.default_rng(0).normal(size=(2, 4))
    teacher = np.linalg.qr(np.random.default_rng(config.seed).normal(size=(4, 2)))[0].T
    spectrum = np.exp(np.linspace(-1, 1, 4))
    expected = theory.committee_error(student, teacher, np.diag(spectrum / spectrum.mean()))
    np.testing.assert_allclose(committee_plateau.error(1.0, config)(student), expected, rtol=1e-12)
    right = committee_plateau.saddle
    faults = {spread: right(spread, config) for spread in config.spreads}
    faults = {spread: found._replace(curvature=1.1 * found.curvature) for spread, found in faults.items()}
    monkeypatch.setattr(committee_plateau, "saddle", lambda spread, _: faults[spread])
    assert verdicts(committee_plateau, config, results) == [True, True, False, False]
    assert committee_plateau.claims(results, config)[1].verdict == "reproduced"


def test_separable_data_end_in_a_tail(x64, monkeypatch):
    config = separable_tail.TINY
    results = separable_tail.main(config)
    made = separable_tail.claims(results, config)
    assert made[3].passed
    assert made[4].passed
    assert abs(made[0].measured / made[0].expected - 1) < 0.25  # in 4 of 6 decades
    assert separable_tail.plot(results, config).get_xlabel()
    right = theory.max_margin
    monkeypatch.setattr(theory, "max_margin", lambda *a: right(*a)._replace(margin=4 * right(*a).margin))
    assert not any(claim.passed for claim in separable_tail.claims(results, config)[:3])


def test_sharpness_rises_to_the_edge_and_stays(monkeypatch):
    config = edge_of_stability.TINY
    results = edge_of_stability.main(config)
    assert all(verdicts(edge_of_stability, config, results))
    assert edge_of_stability.plot(results, config).get_xlabel()
    limits = {c.expected for c in edge_of_stability.claims(results, config) if "threshold" in c.name}
    assert limits == {0.8}
    monkeypatch.setattr(theory, "edge_nesterov", lambda eta, beta: theory.edge_gd(eta))
    assert verdicts(edge_of_stability, config, results)[0] is False


def test_the_share_of_minima_is_counted_and_a_lost_minimum_is_caught(x64, quick_compilation):
    config = share_of_minima.TINY
    results = share_of_minima.main(config)
    assert np.unique(results["parameters"]).tolist() == [2 * (2 + 1 + 2)]  # h (d + 1 + C)
    drawn = np.asarray(share_of_minima.at_random(config.nets[0], config)[0].weight)
    assert not np.allclose(drawn[:4] / config.scales[0], drawn[4:] / config.scales[1])  # other draws at each scale
    zero = results.isel(search=np.flatnonzero((results["kind"] == "near a saddle") & (results["point"] >= 0)))
    assert (zero["negative"] > 0).any()
    share = share_of_minima.shares(share_of_minima.distinct_points(results))
    np.testing.assert_allclose(share[:, 3], share[:, 1] / share[:, 2])
    assert ((share[:, 4] <= share[:, 3]) & (share[:, 3] <= share[:, 5])).all()
    assert share_of_minima.plot(results, config).get_xlabel()
    few = share_of_minima.distinct_points(results)  # each point once: no two of one loss and index
    losses = np.column_stack([few["net"], few["loss"].round(7)])
    assert len(np.unique(losses, axis=0)) == few.sizes["search"]
    lost = results.assign(negative=results["negative"].where(results["negative"] > 0, 1))
    assert not verdicts(share_of_minima, config, lost)[0]
    assert names(share_of_minima, config, lost) == names(share_of_minima, config, results)
    n = np.repeat([10, 1000], [40, 40])
    falling = {"negative": np.where(n > 100, 1, np.arange(80) % 2), "parameters": n, "net": n, "point": np.arange(80)}
    made = xr.Dataset({k: ("search", v) for k, v in falling.items()}).assign(kind=("search", ["random"] * 80))
    by_name = {c.name.split(":")[0]: c.passed for c in share_of_minima.claims(made, config)}
    assert by_name["random"]
    rising = made.assign(parameters=1100 - made["parameters"])
    by_name = {c.name.split(":")[0]: c.passed for c in share_of_minima.claims(rising, config)}
    assert not by_name["random"]


def test_momentum_leaves_first_and_swapped_runs_are_caught(quick_compilation, monkeypatch):
    config = which_optimizer_leaves_first.Config(
        datasets=(("iris", 20),), optimizers=(("gd", 0.02), ("momentum", 0.02), ("adam", 0.01)), rates=3, ratio=2.0,
        hidden=4, tuning_inits=4, inits=12, steps=300,
    )  # fmt: skip
    monkeypatch.setattr(which_optimizer_leaves_first, "GOALS", ("leave",))
    results = which_optimizer_leaves_first.main(config)
    by_name = {claim.name: claim for claim in which_optimizer_leaves_first.claims(results, config)}
    assert by_name["iris, equal rate: median of gd over momentum, to 0.98 ln C"].passed
    for name in ("momentum", "adam"):
        assert by_name[f"iris, tuned to leave: {name} before gd, share of decided pairs"].measured == 1
        p = by_name[f"iris, tuned to leave: {name} before gd, p of the log-rank test"]
        assert (p.passed, p.verdict) == (True, "reproduced")
    assert "iris, tuned to leave: rates on the edge of their grid" in by_name
    assert by_name["iris: runs that never left"].passed
    assert which_optimizer_leaves_first.plot(results, config).get_xlabel()
    found = results["iris"]
    names = found.runs["leave"]["optimizer"].to_numpy()[::-1]
    swapped = found._replace(runs={goal: ds.assign_coords(optimizer=names) for goal, ds in found.runs.items()})
    right = theory.growth_heavy_ball
    monkeypatch.setattr(theory, "growth_heavy_ball", lambda g, beta: right(2 * g, beta))
    faults = {claim.name: claim for claim in which_optimizer_leaves_first.claims({"iris": swapped}, config)}
    assert not faults["iris, equal rate: median of gd over momentum, to 0.98 ln C"].passed
    assert not faults["iris, tuned to leave: adam before gd, p of the log-rank test"].passed
    assert not faults["iris, tuned to leave: adam before gd, share of decided pairs"].passed
    assert list(faults) == list(by_name)
    tried = found.tuning.assign(usable=found.tuning["learning_rate"] < found.tuning["learning_rate"].isel(factor=-1))
    fastest = which_optimizer_leaves_first.choose(tried, "leave")
    assert fastest["gd"] == pytest.approx(0.04)  # the largest rate is the quickest, and must not be chosen


def test_small_runs_leave_when_forecast_and_a_wrong_growth_is_caught(x64, quick_compilation, monkeypatch):
    small = {"dataset": "iris", "per_class": 20, "hidden": 3, "scales": (1e-4, 1e-3), "points": (0.2, 0.6), "inits": 2}
    config = forecast_against_fact.Config(**small, optimizers=("gd", "adam"))
    results = forecast_against_fact.main(config)
    assert all(verdicts(forecast_against_fact, config, results))
    assert forecast_against_fact.plot(results, config).get_xlabel()
    right = Linear.step
    faster = np.array([1.1, 1.1, 1.0])[:, None]  # every factor of a step on (d, m) ten per cent too large
    monkeypatch.setattr(Linear, "step", lambda *a: faster * right(*a))
    config = forecast_against_fact.Config(**small, optimizers=("gd",))
    faulty = forecast_against_fact.main(config)
    assert verdicts(forecast_against_fact, config, faulty) == [False] * 4 + [True]  # near and held, from either point
    right_names = {c.name: c.expected for c in forecast_against_fact.claims(results, config)}
    assert right_names == {c.name: c.expected for c in forecast_against_fact.claims(faulty, config)}


def test_the_trapped_share_must_fall_with_width():
    config = lecture_width.Config(widths=(1, 2, 4), inits=(("tanh", "glorot"),), runs=40)

    def trapped(*count: int) -> xr.Dataset:
        wrong = np.arange(config.runs) < np.array(count)[:, None]
        shape = ("activation", "width", "run", "step"), np.where(wrong, 0.75, 1.0)[None, ..., None]
        coords = {"activation": ["tanh"], "width": list(config.widths)}
        return xr.Dataset(
            {"accuracy": shape, "loss": (shape[0], np.where(wrong, np.log(2) / 2, 0)[None, ..., None])}, coords
        )

    falling, level, rising = trapped(40, 9, 0), trapped(40, 40, 40), trapped(0, 9, 40)
    assert verdicts(lecture_width, config, falling) == [True] * 4
    assert verdicts(lecture_width, config, level) == [True, False, False, True]
    assert verdicts(lecture_width, config, rising) == [False, False, False, True]
    assert len({tuple(names(lecture_width, config, r)) for r in (falling, level, rising)}) == 1
