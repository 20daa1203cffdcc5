"""The lecture's experiments at a tiny size: every claim holds, and a planted fault turns the right ones red."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import (
    lecture_decision_regions,
    lecture_logistic_regression,
    lecture_loss_and_backprop,
    lecture_plateau,
    lecture_saddle,
    lecture_softmax_layer,
    lecture_width,
)
from jaxsoft import data, lecture, optimizers, plot_surface, problem, softmax


def red(experiment, config, results):
    """The names of the claims that do not hold."""
    return [claim.name for claim in experiment.claims(results, config) if not claim.passed]


@pytest.fixture
def momentum_of_another_strength(monkeypatch):
    """0.8 in the place of 0.9."""
    right = optimizers.make

    def made(name, eta):
        return right(name, eta, momentum=0.8) if name == "momentum" else right(name, eta)

    monkeypatch.setattr(optimizers, "make", made)


def test_softmax_is_a_layer_from_vectors_to_vectors(x64, quick_compilation, monkeypatch):
    config = lecture_softmax_layer.TINY
    results = lecture_softmax_layer.main(config)
    assert red(lecture_softmax_layer, config, results) == []
    assert lecture_softmax_layer.plot(results, config).get_xlabel()
    right = softmax.probabilities
    monkeypatch.setattr(softmax, "probabilities", lambda z: right(1.1 * z))  # another temperature
    monkeypatch.setattr(softmax, "softmax", jax.nn.sigmoid)  # each number by itself
    faulty = red(lecture_softmax_layer, config, lecture_softmax_layer.main(config))
    kinds = ["C = 2", "C = 10", "softmax", "softmax", "softmax.jacobian", "softmax", "T → 0"]
    assert [name.split(":")[0] for name in faulty] == kinds


def test_the_lectures_steps_are_the_librarys_softmax(x64):
    z = jnp.asarray(lecture.Z)
    exponentials, total, divided = lecture.three_steps(z)
    np.testing.assert_allclose(exponentials / total, softmax.softmax(z), rtol=1e-15)
    assert (divided == exponentials / total).all()


def test_softmax_regression_with_two_classes_is_logistic_regression(x64, quick_compilation, monkeypatch):
    config = lecture_logistic_regression.Config(pairs=100)
    results = lecture_logistic_regression.main(config)
    assert red(lecture_logistic_regression, config, results) == []
    assert lecture_logistic_regression.plot(results, config).get_xlabel()
    assert all(fit.grad_norm < config.tolerance for fit in results.fits.values())
    right = lecture_logistic_regression.ask_scikit_learn
    for name, fit in results.fits.items():  # the factor 2 of two classes forgotten
        weights, _ = right(data.get(name), 2 * config.l2)
        wrong = results._replace(fits={name: fit._replace(oracle=weights)})
        assert red(lecture_logistic_regression, config, wrong) == [
            f"{name}: distance of the weights from scikit-learn's"
        ]
    classification = problem.classification  # without the penalty nothing takes w₁ + w₂ away
    monkeypatch.setattr(problem, "classification", lambda model, examples, l2: classification(model, examples))
    short = dataclasses.replace(config, datasets=("breast_cancer",), steps=500)
    faulty = red(lecture_logistic_regression, short, lecture_logistic_regression.main(short))
    assert "breast_cancer: largest |w₁ + w₂|" in faulty


def test_regions_without_a_hidden_layer_have_straight_sides(x64, quick_compilation):
    config = lecture_decision_regions.Config(classes=(4,), seeds=(143,), steps=200, lines=20, midpoints=500)
    results = lecture_decision_regions.main(config)
    assert red(lecture_decision_regions, config, results) == []
    assert lecture_decision_regions.plot(results, config).get_xlabel()
    swapped = {(classes, not hidden): trained for (classes, hidden), trained in results.items()}
    faulty = red(lecture_decision_regions, config, swapped)
    assert any("bend" in name for name in faulty)
    assert any("straight" in name for name in faulty)
    none = {key: trained._replace(boundaries={}) for key, trained in results.items()}
    hint = {key: trained._replace(boundaries={(0, 1): np.eye(2)}) for key, trained in results.items()}
    for nothing in (none, hint):  # no boundary, and one of two points, which any line fits
        assert [name.split(": ")[1] for name in red(lecture_decision_regions, config, nothing)] == [
            "boundaries that are judged",
            "largest bend of a boundary",
            "boundaries that are judged",
        ]
        assert lecture_decision_regions.plot(nothing, config).get_xlabel()


def test_the_fills_of_the_regions_are_evenly_apart_in_grey():
    grey = lecture_decision_regions.tints(6).colors @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey, np.linspace(0.7, 0.95, 6))


def test_how_far_points_are_from_a_line():
    t = np.linspace(0, 1, 9)
    assert lecture_decision_regions.bend(np.stack([3 + t, 2 - 5 * t], axis=1)) < 1e-15
    semicircle = np.stack([np.cos(np.pi * t), np.sin(np.pi * t)], axis=1)
    mean = semicircle[:, 1].mean()
    assert lecture_decision_regions.bend(semicircle) == pytest.approx(max(mean, 1 - mean) / 2)


def test_boundaries_are_found_where_theory_puts_them():
    weights = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, -3.0]])  # class 2 below y = -|x|/3
    examples = data.dataset([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]], [0, 1, 2])
    found = lecture_decision_regions.boundaries(lambda x: x @ weights.T, examples, 11)
    assert list(found) == [(0, 1), (0, 2), (1, 2)]
    assert abs(found[0, 1][:, 0]).max() < 1e-9
    assert (found[0, 1][:, 1] > -1e-9).all()  # the rest of that line is class 2's
    np.testing.assert_allclose(found[0, 2][:, 1], -found[0, 2][:, 0] / 3, atol=1e-9)


def test_backpropagation_by_hand_is_the_frameworks_and_a_flipped_sign_is_caught(x64, quick_compilation, monkeypatch):
    config = lecture_loss_and_backprop.TINY
    results = lecture_loss_and_backprop.main(config)
    assert red(lecture_loss_and_backprop, config, results) == []
    assert lecture_loss_and_backprop.plot(results, config).get_xlabel()
    monkeypatch.setattr(lecture_loss_and_backprop, "output_gradient", lambda y_hat, y: y - y_hat)
    flipped = lecture_loss_and_backprop.output_gradient(np.array(lecture.Y_HAT), np.array(lecture.Y))
    dz = results.dz | {"ŷ - y": flipped}
    shallow = dataclasses.replace(config, depths=(1,))
    wrong = results._replace(dz=dz, gradients=lecture_loss_and_backprop.gradients(shallow))
    faulty = red(lecture_loss_and_backprop, shallow, wrong)
    assert [name.split(":")[0] for name in faulty] == ["dz by ŷ - y", "jax.grad", "flax"]
    x, y = lecture_loss_and_backprop.by_hand(config)
    start = lecture_loss_and_backprop.to_numpy(lecture_loss_and_backprop.nets(2, config)[0])
    assert np.diff(lecture_loss_and_backprop.train_by_hand(start, x, y, config)).min() > 0  # it climbs


def test_a_saddle_is_left_by_growth_factors_and_minima_are_coin_flips(x64, quick_compilation, monkeypatch):
    config = lecture_saddle.TINY
    results = lecture_saddle.main(config)
    assert red(lecture_saddle, config, results) == []
    assert lecture_saddle.plot(results, config).get_xlabel()
    slopes, curvatures = (jax.vmap(f)(lecture_saddle.local_minima()[:, None]) for f in derivatives())
    np.testing.assert_allclose(slopes, 0, atol=1e-13)
    assert (curvatures > 0).all()
    no_saddles = results._replace(index={1: 0 * results.index[1]})
    assert len(red(lecture_saddle, config, no_saddles)) == 2


def derivatives():
    return jax.grad(lecture_saddle.old_picture), jax.hessian(lecture_saddle.old_picture)


def test_the_old_picture_is_odd_in_every_direction(x64):
    theta = jnp.array([0.3, -1.2, 2.0])
    total, mirrored = lecture_saddle.old_picture(theta), lecture_saddle.old_picture(theta.at[1].mul(-1))
    np.testing.assert_allclose(total - mirrored, 2 * lecture_saddle.old_picture(theta[1:2]), rtol=1e-14)


def test_a_weaker_momentum_leaves_the_saddle_at_another_rate(x64, quick_compilation, momentum_of_another_strength):
    config = lecture_saddle.Config(dimensions=())
    results = lecture_saddle.main(config)
    assert red(lecture_saddle, config, results) == ["momentum: distance at the end"]


SHORT = lecture_plateau.Config(slope=0.02, length=2.001, steps=1500)


def test_each_optimizer_takes_the_steps_of_theory_along_the_slope(x64, quick_compilation):
    results = lecture_plateau.main(SHORT)
    assert red(lecture_plateau, SHORT, results) == []
    assert lecture_plateau.plot(results, SHORT).get_xlabel()
    goal, loss = lecture_plateau.red_point(SHORT), lecture_plateau.surface(SHORT).loss
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(goal)), 0, atol=1e-12)
    assert (jnp.linalg.eigvalsh(jax.hessian(loss)(jnp.asarray(goal))) > 0).all()


def test_a_weaker_momentum_takes_longer_along_the_slope(x64, quick_compilation, momentum_of_another_strength):
    faulty = red(lecture_plateau, SHORT, lecture_plateau.main(SHORT))
    assert faulty == ["momentum: steps to the end of the slope"]


def test_wide_nets_get_through_and_a_single_unit_never(quick_compilation, monkeypatch):
    config = lecture_width.Config(widths=(1, 8), inits=(("tanh", "glorot"),), runs=10, steps=300)
    results = lecture_width.main(config)
    last = "tanh: median loss of trapped runs with more than one unit"
    assert red(lecture_width, config, results) == [last]  # none is trapped: nothing to measure, and that is said
    made = lecture_width.claims(results, config)[-1]
    assert (made.name, made.verdict, np.isnan(made.measured)) == (last, "not reproduced", True)
    stuck = results.assign(accuracy=0 * results["accuracy"], loss=0 * results["loss"] + np.log(2) / 2)
    assert lecture_width.claims(stuck, config)[-1].verdict == "reproduced"
    assert lecture_width.plot(results, config).get_xlabel()
    right = data.xor
    inclusive = np.array([0, 1, 1, 1], np.int32)  # one unit is enough
    monkeypatch.setattr(data, "xor", lambda n, noise: right(n, noise=noise)._replace(y=inclusive))
    config = dataclasses.replace(config, widths=(1,))
    faulty = red(lecture_width, config, lecture_width.main(config))
    assert "tanh: share trapped with one unit" in faulty


def test_a_path_of_another_shape_is_refused():
    from matplotlib.figure import Figure

    ax = Figure().add_subplot(projection="3d")
    with pytest.raises(ValueError, match=r"paths\['gd'\]: expected shape \(T, 2\), got \(4, 3\)"):
        plot_surface.plot_surface(lecture_saddle.horse, (-1, 1), (-1, 1), {"gd": np.zeros((4, 3))}, ax=ax, resolution=3)
