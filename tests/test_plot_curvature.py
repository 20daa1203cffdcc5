"""The pictures of a Hessian show its counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoft import curvature
from jaxsoft.plot_curvature import plot_density, plot_spectrum

VALUES = np.array([-3.0, -0.1, -0.1, 0.0, 0.0, 1e-4, 0.2, 0.3, 0.5, 40.0])


def bowl(params):
    return 0.5 * jnp.sum(jnp.asarray(VALUES) * params**2)


@pytest.fixture
def found(x64):
    return curvature.inertia(bowl, jnp.zeros(10), band=1e-3)


def test_the_bars_of_the_histogram_add_up_to_the_certified_counts(found):
    ax = plot_spectrum(VALUES, found, outliers=1)
    bars = [bar for bar in ax.patches if bar.get_height() > 0 and hasattr(bar, "get_x")]
    inside = sum(bar.get_height() for bar in bars if bar.get_hatch())
    down = sum(bar.get_height() for bar in bars if bar.get_x() + bar.get_width() <= -1e-3 + 1e-12)
    up = sum(bar.get_height() for bar in bars if bar.get_x() >= 1e-3 - 1e-12 and bar.get_facecolor()[3])
    assert (down, inside, up) == (found.negative, found.zero + found.null, found.positive) == (3, 3, 4)
    marked = next(line for line in ax.get_lines() if line.get_marker() == "v")
    assert marked.get_xdata().tolist() == [40.0]
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "down: index 3" in names
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_lower_bounds_are_called_so(x64):
    found = curvature.inertia(bowl, jnp.zeros(10), band=1e-3, method="lanczos")
    names = [text.get_text() for text in plot_spectrum(VALUES, found).get_legend().get_texts()]
    assert f"down: index at least {found.negative}" in names
    many = jax.tree.map(lambda x: jnp.stack([x, x]), found)
    with pytest.raises(ValueError, match="found: expected the certificate of one point, got 2"):
        plot_spectrum(VALUES, many)


def test_a_spectrum_of_another_size_is_refused(found):
    with pytest.raises(ValueError, match="eigenvalues: expected 10 finite numbers"):
        plot_spectrum(VALUES[1:], found)
    with pytest.raises(ValueError, match="outliers: expected"):
        plot_spectrum(VALUES, found, outliers=11)


def test_the_drawn_density_has_the_area_one(x64):
    found = curvature.density(bowl, jnp.zeros(10), jax.random.key(0), probes=6)
    ax = plot_density(found, width=0.5, points=4000)
    curve = max(ax.get_lines(), key=lambda line: len(line.get_xdata()))
    assert abs(np.trapezoid(*curve.get_data()[::-1]) - 1) < 2e-3  # the floor of the logarithmic axis
    with pytest.raises(ValueError, match="width: expected"):
        plot_density(found, width=0.0)
