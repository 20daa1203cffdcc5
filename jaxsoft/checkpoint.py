"""Parameters on disk: .npz, one array for each leaf, named by its path; or an Orbax checkpoint. Nothing is unpickled.

save("params.npz", params)          # {"0/weight": ..., "0/bias": ...}, or {"params/Dense_0/kernel": ...}
params = load("params.npz", like)   # like: a pytree of the same structure; without it nested dicts
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from jaxsoft.files import naming

Params = Any


def paths(params: Params) -> dict[str, Any]:
    """The leaves by their paths, steps joined by "/"."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def save(path: str | Path, params: Params) -> None:
    """Write every leaf as an array named by its path, to a file named .npz."""
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"path: expected a file named .npz, got {path}")
    arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in paths(params).items()}
    np.savez(path, **arrays)


def load(path: str | Path, like: Params | None = None) -> Params:
    """The parameters in an .npz file or in the folder of an Orbax checkpoint (a pytree of arrays).

    With ``like`` (arrays or shapes) in its structure, matched by path, or by order where the file holds one flat vector
    "params" of all parameters; without it nested dicts. Raises ValueError, in one line that begins with the path, for a
    file that is damaged or does not fit ``like``; FileNotFoundError where there is none.
    """
    path = Path(path)
    with naming(path):
        if not path.exists():
            raise FileNotFoundError(path)
        found = _orbax(path) if path.is_dir() else _npz(path)
        return found if like is None else _fit(found, like)


def _npz(path: Path) -> Params:
    if path.suffix != ".npz":
        raise ValueError("expected a file named .npz, or the folder of an Orbax checkpoint")
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception as error:  # what a damaged archive raises has many names
        raise ValueError(f"not a readable .npz file: {error}") from None
    if not arrays:
        raise ValueError("expected at least one array, got none")
    return unflatten_dict(arrays, sep="/")


def _orbax(path: Path) -> Params:
    import orbax.checkpoint

    try:
        with warnings.catch_warnings(), orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
            warnings.simplefilter("ignore")  # it says that it takes the sharding from the file
            return checkpointer.restore(path.absolute())
    except Exception as error:
        raise ValueError(f"not a readable Orbax checkpoint: {error}") from None


def _fit(found: Params, like: Params) -> Params:
    """The arrays in the structure, and the types, of ``like``."""
    arrays, wanted = paths(found), paths(like)
    leaves, structure = jax.tree.flatten(like)
    if list(arrays) == ["params"] and list(wanted) != ["params"]:
        flat, total = np.ravel(arrays["params"]), sum(int(np.prod(leaf.shape)) for leaf in leaves)
        if flat.size != total:
            raise ValueError(f"expected {total} parameters, got {flat.size}")
        ends = np.cumsum([int(np.prod(leaf.shape)) for leaf in leaves])[:-1]
        parts = [part.reshape(leaf.shape) for part, leaf in zip(np.split(flat, ends), leaves, strict=True)]
        return jax.tree.unflatten(
            structure, [jnp.asarray(p, leaf.dtype) for p, leaf in zip(parts, leaves, strict=True)]
        )
    if set(arrays) != set(wanted):
        missing, extra = sorted(set(wanted) - set(arrays)), sorted(set(arrays) - set(wanted))
        raise ValueError(
            f"expected the arrays {', '.join(wanted)}; missing {missing or 'none'}, unknown {extra or 'none'}"
        )
    for name, leaf in wanted.items():
        if np.shape(arrays[name]) != leaf.shape:
            raise ValueError(f"{name}: expected shape {leaf.shape}, got {np.shape(arrays[name])}")
    return jax.tree.unflatten(structure, [jnp.asarray(arrays[name], leaf.dtype) for name, leaf in wanted.items()])
