"""The axes of a sweep: which are compiled apart (kinds), which are lanes of one program (numbers and seeds)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxsoft import checks

Number = float | int
MOST_RUNS = 100_000_000  # their labels alone take a gigabyte
Axes = Mapping[str, object]


@dataclass(frozen=True)
class Seeds:
    """An axis of ``n`` independent random keys: run i of every other setting starts from the same draw."""

    n: int

    def __post_init__(self) -> None:
        checks.count("seeds", self.n)


@dataclass(frozen=True)
class Static:
    """Numbers that must stay Python numbers (a batch size, a width): one compiled block for each."""

    values: tuple[Number, ...]

    def __init__(self, values: Sequence[Number]) -> None:
        object.__setattr__(self, "values", tuple(values))
        if not self.values:
            raise ValueError("static: expected at least one value, got none")


@dataclass(frozen=True)
class Kind:
    """One value of a kinds axis: its label, what the process receives, and numbers that come with it."""

    label: str | Number
    value: object
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Block:
    """One combination of kinds: its index in the result, what the process receives, and its own numbers."""

    index: tuple[int, ...]
    labels: tuple[str | Number, ...]
    kinds: Mapping[str, object]
    numbers: Mapping[str, float]


def _kinds(name: str, values: object) -> tuple[Kind, ...] | None:
    """The kinds of an axis, or None if it is an axis of numbers or seeds."""
    if isinstance(values, Static):
        return tuple(Kind(v, v, {}) for v in values.values)
    if isinstance(values, Mapping):
        if not values:
            raise ValueError(f"axes[{name!r}]: expected at least one value, got none")
        return tuple(
            Kind(str(label), str(label), {k: float(v) for k, v in value.items()})
            if isinstance(value, Mapping)
            else Kind(str(label), value, {})
            for label, value in values.items()
        )
    if isinstance(values, Sequence) and not isinstance(values, str) and values and isinstance(values[0], str):
        if not all(isinstance(v, str) for v in values):
            raise TypeError(f"axes[{name!r}]: expected all names or all numbers, got {list(values)}")
        return tuple(Kind(v, v, {}) for v in values)
    return None


def _numbers(name: str, values: object) -> np.ndarray:
    expected = "Seeds(n), numbers, names, Static(...) or a mapping of names"
    if isinstance(values, str | bytes) or not isinstance(values, Sequence | np.ndarray | range):
        raise TypeError(f"axes[{name!r}]: expected {expected}, got {type(values).__name__} {values!r}")
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"axes[{name!r}]: expected a non-empty one-dimensional axis, got shape {array.shape}")
    if array.dtype.kind not in "iuf":
        raise TypeError(f"axes[{name!r}]: expected {expected}, got values of type {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"axes[{name!r}]: expected finite numbers, got {array[~np.isfinite(array)][0]}")
    return array


class Grid:
    """Parsed axes. Lanes are numbered in C order over the lane axes, the longest of them last (``fast``)."""

    def __init__(self, axes: Axes) -> None:
        for name in axes:
            if not (isinstance(name, str) and name.isidentifier()) or name in RESERVED:
                raise ValueError(f"axes: expected names that are identifiers and not {sorted(RESERVED)}, got {name!r}")
        self.order = tuple(axes)
        kinds = {name: _kinds(name, values) for name, values in axes.items()}
        self.kinds = {name: k for name, k in kinds.items() if k is not None}
        for name, values in self.kinds.items():
            labels = [k.label for k in values]
            if len(set(labels)) != len(labels):
                raise ValueError(f"axes[{name!r}]: expected different values, got {labels}")
        lanes = {name: values for name, values in axes.items() if name not in self.kinds}
        self.seeds = {name: v.n for name, v in lanes.items() if isinstance(v, Seeds)}
        self.numbers = {name: _numbers(name, v) for name, v in lanes.items() if name not in self.seeds}
        sizes = {name: self.seeds[name] if name in self.seeds else len(self.numbers[name]) for name in lanes}
        # The longest axis last: a chunk of lanes is then a rectangle of the stored arrays, in few files.
        fast = max(sizes, key=lambda name: sizes[name], default=None)
        self.lane_dims = tuple(n for n in sizes if n != fast) + ((fast,) if fast is not None else ())
        self.lane_shape = tuple(sizes[name] for name in self.lane_dims)
        self.columns = self.lane_shape[-1] if self.lane_shape else 1
        self.rows = math.prod(self.lane_shape[:-1])
        self.lanes = self.rows * self.columns
        total = self.lanes * math.prod(len(k) for k in self.kinds.values())
        if total > MOST_RUNS:
            raise ValueError(f"axes: expected at most {MOST_RUNS:,} runs in one sweep, got {total:,}: split it")

    @property
    def dims(self) -> tuple[str, ...]:
        """The dimensions of the stored arrays: kinds first, then the lane axes."""
        return (*self.kinds, *self.lane_dims)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*(len(k) for k in self.kinds.values()), *self.lane_shape)

    def blocks(self) -> Iterator[Block]:
        """Every combination of kinds, in order."""
        numbered = [list(enumerate(values)) for values in self.kinds.values()]
        for combination in itertools.product(*numbered):
            chosen = [kind for _, kind in combination]
            merged: dict[str, float] = {}
            for kind in chosen:
                for name in kind.numbers:
                    if name in merged or name in self.order:
                        raise ValueError(f"axes: {name!r} is given twice, by {kind.label!r} and by another axis")
                merged |= kind.numbers
            yield Block(
                index=tuple(i for i, _ in combination),
                labels=tuple(kind.label for kind in chosen),
                kinds=dict(zip(self.kinds, (kind.value for kind in chosen), strict=True)),
                numbers=merged,
            )

    def point(self, lanes: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The numbers of these lanes, by axis, and each lane's global run id (over the seed axes alone)."""
        where = np.unravel_index(lanes, self.lane_shape) if self.lane_shape else ()
        index = dict(zip(self.lane_dims, where, strict=True))
        numbers = {name: values[index[name]] for name, values in self.numbers.items()}
        run = np.zeros(lanes.shape, np.int64)
        for name, n in self.seeds.items():
            run = run * n + index[name]
        return numbers, run.astype(np.uint32)

    def coordinates(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Labels for every axis, and the numbers that come with kinds (NaN where a kind has none of that name)."""
        coords: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
        for name, values in self.kinds.items():
            coords[name] = ((name,), np.array([k.label for k in values]))
            for extra in sorted({n for k in values for n in k.numbers}):
                coords[extra] = ((name,), np.array([k.numbers.get(extra, np.nan) for k in values]))
        for name in self.lane_dims:
            coords[name] = ((name,), np.arange(self.seeds[name]) if name in self.seeds else self.numbers[name])
        return coords

    def describe(self) -> dict[str, object]:
        """Plain data that says the same, for the store's identity."""
        described: dict[str, object] = {}
        for name in self.order:
            if name in self.kinds:
                described[name] = {str(k.label): dict(k.numbers) for k in self.kinds[name]}
            elif name in self.seeds:
                described[name] = {"seeds": self.seeds[name]}
            else:
                described[name] = self.numbers[name].tolist()
        return described


RESERVED = frozenset({"step", "steps", "status", "committed"})
