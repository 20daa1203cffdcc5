"""Results on disk: a Zarr v3 store that xarray opens, labelled by axis, written chunk by chunk, resumable.

A chunk of lanes is written whole, and its ``committed`` flag last, so a reader trusts exactly the lanes whose flag is
set. One process writes at a time. What a chunk in progress has done so far is kept in one file beside the store,
``OUT.partial.npz``, which is replaced atomically and gone when the sweep is complete.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
import zarr
import zarr.storage

from jaxsoft.process import DIVERGED

if TYPE_CHECKING:
    from zarr.core.common import JSON

FORMAT = "jaxsoft sweep 1"


@dataclass(frozen=True)
class Variable:
    """An array of the store: dimensions after the lane dimensions, their sizes, and the element type."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class Layout:
    """Everything that is fixed before the first run."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    lane_ndim: int
    chunk_columns: int
    coords: Mapping[str, tuple[tuple[str, ...], np.ndarray]]
    variables: Mapping[str, Variable]


def differences(stored: Mapping[str, object], wanted: Mapping[str, object], prefix: str = "") -> list[str]:
    """What two nested configurations disagree on, one line each: ``seed: the store has 0, this command 1``."""
    lines = []
    for key in dict.fromkeys([*stored, *wanted]):
        a, b = stored.get(key, "nothing"), wanted.get(key, "nothing")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: the store has {a}, this command {b}")
    return lines


def _plain(value: Mapping[str, object]) -> dict[str, JSON]:
    """The value as JSON keeps it, so that a stored configuration compares equal to a fresh one."""
    return json.loads(json.dumps(value))


@contextlib.contextmanager
def explain_os_errors(out: Path | None) -> Iterator[None]:
    """Turn the operating system's refusals into one line that says what still stands."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            said = (
                f"out: no space left for {out}; every committed run is kept and readable: "
                "free space and run the same command again to go on"
            )
        else:
            said = f"out: expected a writable folder, cannot write to {out}: {error.strerror or error}"
        raise type(error)(error.errno, said) from error


@contextlib.contextmanager
def explain_damage(path: Path | None) -> Iterator[None]:
    """Turn what a broken store makes of a reader into one line."""
    try:
        yield
    except (RuntimeError, KeyError, AttributeError, json.JSONDecodeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"run: the store {path} is damaged ({said}): delete it and run its command again") from error


def _make_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: expected a folder, got the file {out}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"out: expected a path inside folders, but part of {out} is a file") from error


def is_store(path: Path) -> bool:
    """Whether a folder is a store of this program."""
    try:
        return json.loads((Path(path) / "zarr.json").read_text())["attributes"]["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


class Store:
    """A store open for writing; use as a context manager. ``out=None`` keeps everything in memory."""

    def __init__(self, out: Path | None, identity: Mapping[str, object], about: Mapping[str, object]) -> None:
        self.out = out
        self._identity = _plain(identity)
        self._about = _plain(about)
        self._lock: int | None = None
        self._zarr: zarr.storage.MemoryStore | str = zarr.storage.MemoryStore() if out is None else str(out)

    def __enter__(self) -> Store:
        if self.out is None:
            self._root = zarr.open_group(self._zarr, mode="w", zarr_format=3, attributes=self._marks(ready=False))
            return self
        with explain_os_errors(self.out):
            _make_folder(self.out)
            self._take_lock(self.out)
            try:
                self._open(self.out)
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)  # closing gives the lock back; so does dying
            self._lock = None

    def _take_lock(self, out: Path) -> None:
        self._lock = os.open(out, os.O_RDONLY)  # the folder itself: nothing to leave behind
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.__exit__()
            raise ValueError(f"out: {out} is being written by another process: wait, or choose another") from error

    def _open(self, out: Path) -> None:
        if not is_store(out):
            foreign = sorted(e.name for e in out.iterdir() if not e.name.endswith(".partial"))  # a killed write of ours
            if foreign:
                raise ValueError(
                    f"out: expected an empty folder or a store of this program, {out} holds {foreign[0]!r}"
                )
            # Ours from its first byte on: the attributes come with the group, in one atomic write.
            self._root = zarr.open_group(str(out), mode="a", zarr_format=3, attributes=self._marks(ready=False))
            return
        self._root = zarr.open_group(str(out), mode="r+", zarr_format=3)
        stored = dict(self._root.attrs).get("identity")
        lines = differences(stored if isinstance(stored, dict) else {}, self._identity)
        if lines:
            more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
            raise ValueError(
                f"out: {out} holds another sweep: {'; '.join(lines[:3])}{more}; choose another folder, or delete it"
            )

    def _marks(self, *, ready: bool) -> dict[str, JSON]:
        return {"format": FORMAT, "identity": self._identity, "about": self._about, "ready": ready}

    @property
    def ready(self) -> bool:
        """Whether the arrays were all created."""
        return bool(dict(self._root.attrs).get("ready", False))

    def create(self, layout: Layout) -> None:
        """Create the labelled arrays, unless an earlier command did."""
        if self.ready:
            return
        with explain_os_errors(self.out):
            self._create(layout)

    def _create(self, layout: Layout) -> None:
        for name, (dims, values) in layout.coords.items():
            kind = str if values.dtype.kind == "U" else values.dtype
            array = self._root.create_array(
                name, shape=values.shape, dtype=kind, dimension_names=list(dims), overwrite=True
            )
            array[...] = values.astype(object) if kind is str else values
        lanes = (1,) * (len(layout.dims) - 1) + (layout.chunk_columns,)
        # The CF convention's way to say that learning_rate(optimizer) labels an axis and is no result.
        beside = " ".join(name for name, (dims, _) in layout.coords.items() if (name,) != dims)
        for name, variable in layout.variables.items():
            fill = np.nan if variable.dtype.kind == "f" else 0
            self._root.create_array(
                name,
                shape=(*layout.shape, *variable.shape),
                chunks=(*(lanes if layout.lane_ndim else (1,) * len(layout.dims)), *variable.shape),
                dtype=variable.dtype,
                fill_value=fill,
                compressors="auto" if self.out else None,  # in memory the packing would take longer than it spares
                dimension_names=[*layout.dims, *variable.dims],
                attributes={"coordinates": beside} if beside else {},
                overwrite=True,
            )
        self._root.attrs.put(self._marks(ready=True))

    def _rectangle(self, block: tuple[int, ...], rows: range, columns: range) -> Iterator[tuple[int | slice, ...]]:
        """The array selection of each row of a chunk."""
        shape = self._root["committed"].shape[len(block) :]  # pyrefly: ignore[missing-attribute]
        for row in rows:
            if not shape:
                yield block
            else:
                others = tuple(int(i) for i in np.unravel_index(row, shape[:-1])) if shape[:-1] else ()
                yield (*block, *others, slice(columns.start, columns.stop))

    def committed(self, block: tuple[int, ...]) -> np.ndarray:
        """Which lanes of a block were written, in the order of the lanes."""
        with explain_damage(self.out):
            return np.ravel(self._root["committed"][block or ...])  # pyrefly: ignore

    def commit(self, block: tuple[int, ...], rows: range, columns: range, values: Mapping[str, np.ndarray]) -> None:
        """Write one chunk: its arrays (rows · columns, ...) first, its flags last."""
        flags = {"committed": np.ones(len(rows) * len(columns), np.bool_)}
        with explain_os_errors(self.out):
            for name, array in [*values.items(), *flags.items()]:
                self._write(name, block, rows, columns, array)

    def _write(self, name: str, block: tuple[int, ...], rows: range, columns: range, array: np.ndarray) -> None:
        target = self._root[name]
        for i, where in enumerate(self._rectangle(block, rows, columns)):
            part = array[i * len(columns) : (i + 1) * len(columns)]
            target[where] = part if isinstance(where[-1] if where else 0, slice) else part[0]  # pyrefly: ignore

    @property
    def _partial(self) -> Path | None:
        return None if self.out is None else self.out.with_name(self.out.name + ".partial.npz")

    def save_partial(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a chunk in progress; replaces the one before atomically."""
        if self._partial is None:
            return
        temporary = self._partial.with_suffix(".tmp")
        with explain_os_errors(self.out):
            with temporary.open("wb") as file:
                np.savez(file, identity=json.dumps(self._identity), **arrays)  # pyrefly: ignore[bad-argument-type]
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._partial)

    def load_partial(self) -> dict[str, np.ndarray] | None:
        """The chunk in progress, if there is a whole one of this very sweep."""
        if self._partial is None or not self._partial.exists():
            return None
        try:
            with np.load(self._partial, allow_pickle=False) as archive:
                if str(archive["identity"]) != json.dumps(self._identity):
                    return None
                return {name: archive[name] for name in archive.files if name != "identity"}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"out: expected {self._partial} to be kept by an interrupted sweep, it is something else: move it away"
            ) from error

    def drop_partial(self) -> None:
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)

    def dataset(self) -> xr.Dataset:
        """The labelled results; read from disk on demand if they are on disk."""
        if self.out is not None:
            return load(self.out)
        return _opened(self._zarr).load()


def _opened(store: zarr.storage.MemoryStore | str) -> xr.Dataset:
    with warnings.catch_warnings():
        # A file that another process is just writing, or that a killed one left, is no array.
        warnings.filterwarnings("ignore", message="Object at .* is not recognized")
        dataset = xr.open_zarr(store, consolidated=False, chunks=None, zarr_format=3)
    names = {n: (v.dims, np.array(v.to_numpy().tolist())) for n, v in dataset.coords.items() if v.dtype.kind == "T"}
    about = dict(dataset.attrs.get("about", {}))
    order = [dim for dim in about.get("order", ()) if dim in dataset.dims]
    dataset = dataset.assign_coords(names).transpose(*order, ...)
    return dataset.drop_attrs(deep=False).assign_attrs({k: _flat(v) for k, v in about.items()})


def _flat(value: object) -> object:
    """An attribute that any file format keeps: nested data as JSON text."""
    return json.dumps(value) if isinstance(value, dict) else value


def load(path: str | Path) -> xr.Dataset:
    """Open the results of a sweep, axes in the order in which they were given; arrays are read on demand.

    Runs that were not reached yet (an interrupted sweep) have ``committed`` False. Raises ValueError for a folder that
    is not a store of this program, FileNotFoundError where there is none.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"run: expected the folder of a sweep, {path} does not exist")
    if not is_store(path):
        raise ValueError(f"run: expected the folder of a sweep, {path} is not one")
    with explain_damage(path):
        return _opened(str(path))


def verify(dataset: xr.Dataset, path: str | Path) -> None:
    """Raise ValueError where committed runs of a store cannot be read, or are gone."""
    with explain_damage(Path(path)):
        known = {*dataset.data_vars, *dataset.coords}
        missing = [n for n in (*dataset.attrs.get("order", ()), "status", "steps", "committed") if n not in known]
        if missing:
            raise KeyError(f"{missing[0]} is missing")
        dataset.load()
        healthy = dataset["committed"] & (dataset["status"] != DIVERGED)
        if not dataset["status"].where(dataset["committed"], 1).all():
            raise KeyError("status has holes")
        for name, values in dataset.data_vars.items():
            if "step" in values.dims and values.dtype.kind == "f":
                hole = values.isnull().all([d for d in values.dims if d not in healthy.dims])
                if bool((hole & healthy).any()):
                    raise KeyError(f"{name} has holes")
