"""The pictures of critical points show what was found."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoft import critical, plot_critical


def wells(p):
    return (p[0] ** 2 - 1) ** 2 + 2 * (p[1] ** 2 - 1) ** 2 + 0.1 * p[0]


@pytest.fixture(scope="module")
def graph():
    with jax.enable_x64(True):
        return critical.saddle_graph(wells, jnp.zeros(2))


def test_the_graph_of_saddles_has_every_point_at_its_loss_and_every_way_down(graph):
    ax = plot_critical.saddle_graph(graph)
    assert ax.get_xlabel()
    assert ax.get_ylabel() == "loss (nats)"
    drawn = np.concatenate([c.get_offsets() for c in ax.collections])
    assert len(drawn) == len(graph.points.loss)
    np.testing.assert_allclose(np.sort(drawn[:, 1]), np.sort(graph.points.loss))
    assert len({tuple(place) for place in drawn.round(6).tolist()}) == len(drawn)  # none hides another
    assert len(ax.get_lines()) == len(graph.edges)
    assert sorted(text.get_text() for text in ax.texts) == sorted(map(str, graph.indices))


def test_index_against_loss_tells_critical_points_from_other_ends(graph):
    points = graph.points._replace(status=np.where(graph.indices == 1, "gradient_flat", "critical"))
    ax = plot_critical.index_against_loss(points, parameters=2)
    others, criticals = ax.get_lines()
    assert (len(others.get_xdata()), len(criticals.get_xdata())) == (4, 5)
    assert set(np.asarray(criticals.get_xdata())) == {0.0, 1.0}


def test_ends_without_an_index_are_refused(graph):
    with pytest.raises(ValueError, match="points: expected searches with certify=True"):
        plot_critical.index_against_loss(graph.points._replace(inertia=None), parameters=2)
