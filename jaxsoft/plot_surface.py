"""A surface over the plane in three dimensions, with the paths that optimizers take down it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from mpl_toolkits.mplot3d.axes3d import Axes3D

from jaxsoft import checks, style

Loss = Callable[[jax.Array], jax.Array]


def plot_surface(
    loss: Loss, first: tuple[float, float], second: tuple[float, float], paths: Mapping[str, npt.NDArray[np.floating]],
    *, ax: Axes3D, resolution: int = 60,
) -> Axes3D:  # fmt: skip
    """Draw ``loss`` (2,) -> () over the rectangle ``first`` x ``second`` in grey, and each path (T, 2) on top of it.

    A dot marks the start of a path. What a path does outside the rectangle is not drawn. Raises ValueError for a path
    of another shape than (T, 2).
    """
    checks.count("resolution", resolution, at_least=2)
    height = jax.vmap(loss)
    grid = np.stack(np.meshgrid(*(np.linspace(*ends, resolution) for ends in (first, second))), axis=-1)
    z = np.asarray(height(jnp.asarray(grid.reshape(-1, 2)))).reshape(resolution, resolution)
    ax.computed_zorder = False  # paths lie on the surface: always in front of it
    ax.plot_surface(
        grid[..., 0], grid[..., 1], z, cmap="Greys_r", vmin=z.min() - 0.3 * np.ptp(z), vmax=z.max(),
        rcount=resolution, ccount=resolution, lw=0.2, edgecolor="0.45", alpha=0.9, zorder=1,
    )  # fmt: skip
    for i, (name, path) in enumerate(paths.items()):
        points = np.asarray(path, float)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"paths[{name!r}]: expected shape (T, 2), got {points.shape}")
        low, high = np.transpose([first, second])
        points = points[((points >= low) & (points <= high)).all(axis=1)]
        up = np.asarray(height(jnp.asarray(points)))
        color, line, marker = style.style(i)
        along = np.append(0, np.cumsum(np.hypot(*np.diff(points, axis=0).T)))
        places = np.unique(np.searchsorted(along, np.linspace(0, along[-1], 8)[1:-1] + 0.02 * i * along[-1]))
        ax.plot(*points.T, up, ls=line, color=color, lw=2, label=name, zorder=3)
        ax.plot(*points[places].T, up[places], marker, color=color, ms=5, mec="white", mew=0.5, zorder=4)
        ax.plot(*points[:1].T, up[:1], "o", color="black", ms=6, zorder=5)
    return ax
