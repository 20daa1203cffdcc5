"""Every experiment runs at a tiny size, its claims can fail, and a planted fault makes them fail."""

from __future__ import annotations

import pytest

from experiments import escape_against_scale
from experiments.claim import Claim
from jaxsoft import theory

TINY = escape_against_scale.Config(
    dataset="iris", hidden=4, learning_rate=0.02, optimizers=("gd", "momentum"), scales=(1e-6, 1e-4), inits=6, steps=900
)


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
