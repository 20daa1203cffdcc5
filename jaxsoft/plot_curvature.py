"""Pictures of a Hessian: the histogram of its eigenvalues with the band, the flat directions and the outliers; its
spectral density from random vectors.

Each draws into ``ax``, or into a figure of its own, and returns the axes, as in ``jaxsoft.plot``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from jaxsoft import checks, style
from jaxsoft.curvature import Density, Inertia

BINS_PER_DECADE = 4


def plot_spectrum(eigenvalues: npt.ArrayLike, found: Inertia, *, outliers: int = 0, ax: Axes | None = None) -> Axes:
    """Histogram of all eigenvalues (P,), logarithmic to both sides of the band of ``found`` and linear inside it.

    Bars left of the band are the ways down. The band is shaded, with the number of eigenvalues inside it and how many
    of these are flat by symmetry; the ``outliers`` largest are marked one by one. Raises ValueError where the number of
    eigenvalues is not that of ``found``, one is not finite, or ``found`` is of many points.
    """
    if np.ndim(found.negative):
        raise ValueError(f"found: expected the certificate of one point, got {np.size(found.negative)}")
    values = np.sort(np.asarray(eigenvalues, np.float64))
    counted = sum(int(n) for n in (found.negative, found.zero, found.positive, found.undecided, found.null))
    if values.shape != (counted,) or not np.isfinite(values).all():
        raise ValueError(f"eigenvalues: expected {counted} finite numbers, as many as found counts, got {values.shape}")
    if not np.isfinite(found.bound):
        raise ValueError("found: expected the certificate of a finite Hessian, got a bound of nan")
    checks.count("outliers", outliers, at_least=0, at_most=values.size)
    ax = style.axes(ax)
    band = float(found.band)
    top = max(np.abs(values).max(), 10 * band)
    sides = np.geomspace(band, top * 1.001, 1 + int(np.ceil(BINS_PER_DECADE * np.log10(top / band))))
    edges = np.concatenate([-sides[::-1], sides])
    counts, _ = np.histogram(values, edges)
    middle = len(sides) - 1
    least = "at least " if found.method == "lanczos" else ""
    sides_of = [
        (f"down: index {least}{int(found.negative)}", slice(0, middle), style.style(1).color),
        (f"up: {least}{int(found.positive)}", slice(middle + 1, None), "0.6"),
    ]
    left, widths = edges[:-1], np.diff(edges)
    for label, part, color in sides_of:
        ax.bar(left[part], counts[part], widths[part], align="edge", color=color, ec="white", lw=0.4, label=label)
    inside, flat = int(found.zero) + int(found.null), int(found.null)
    ax.axvspan(-band, band, color="0.92", zorder=0, label=f"band ±{band:.1g}: {inside}, {flat} flat by symmetry")
    ax.bar([-band], [counts[middle]], [2 * band], align="edge", color="none", ec="0.4", hatch="///", lw=0.6)
    if outliers:
        marks = {"color": "black", "ms": 5, "label": f"{outliers} outliers", "clip_on": False}
        ax.plot(values[-outliers:], np.full(outliers, 0.6), "v", **marks)
    ax.set_xscale("symlog", linthresh=band, linscale=0.5)
    every = max(1, int(np.ceil(np.log10(top / band) / 4)))
    powers = np.arange(int(np.floor(np.log10(top))), np.log10(band), -every).astype(int)
    signed = [("−", -1, p) for p in powers] + [("", 1, p) for p in powers]
    ticks = [(0.0, "0"), *((sign * 10.0**p, f"{minus}$10^{{{p}}}$") for minus, sign, p in signed)]
    ax.set_xticks([place for place, _ in ticks], [name for _, name in ticks])
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylim(0, 1.5 * max(int(counts.max()), 2))
    ax.set_xlabel("eigenvalue of the Hessian")
    ax.set_ylabel("number of eigenvalues")
    ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return ax


def plot_density(found: Density, *, width: float | None = None, points: int = 400, ax: Axes | None = None) -> Axes:
    """The spectral density, smoothed by a Gaussian of ``width`` (a fiftieth of the range by default), with a band of
    two standard errors over the random vectors; logarithmic, as the bulk is thousands of times the outliers."""
    nodes = np.asarray(found.nodes)
    low, high = float(nodes.min()), float(nodes.max())
    span = high - low if high - low > 1e-6 * max(abs(low), abs(high)) else max(abs(low), abs(high)) or 1.0
    width = span / 50 if width is None else float(checks.positive("width", width))
    grid = np.linspace(low - 4 * width, high + 4 * width, checks.count("points", points, at_least=2))
    mean, error = (np.asarray(x) for x in found.smoothed(grid, width))
    ax = style.axes(ax)
    floor = 1e-3 / (len(nodes) * span)
    ax.fill_between(
        grid, np.maximum(mean - 2 * error, floor), mean + 2 * error, color="0.8", lw=0, label="±2 standard errors"
    )
    ax.plot(grid, np.maximum(mean, floor), color="black", lw=1.5, label=f"mean of {len(nodes)} random vectors")
    ax.axvline(0, color="0.5", lw=0.8, ls=":")
    ax.set_yscale("log")
    ax.set_ylim(floor, 3 * mean.max())
    ax.set_xlabel(f"eigenvalue of the Hessian (smoothed over {width:.2g})")
    ax.set_ylabel("density of eigenvalues")
    ax.legend(frameon=False, fontsize="small")
    return ax
