"""The one engine: axes -> lanes -> chunks -> compiled programs -> labelled results.

    ds = sweep.run(process, {"optimizer": ["gd", "adam"], "learning_rate": [0.1, 1.0], "run": sweep.Seeds(256)},
                   seed=0, steps=400)

Axes of kinds (names) make one compiled program each; axes of numbers and seeds are lanes of it. Every lane ends with a
status; one that turns non-finite is frozen at its last finite state and never harms the others.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from jaxsoft import checks
from jaxsoft.axes import Axes, Block, Grid, Seeds, Static
from jaxsoft.process import DIVERGED, RUNNING, STATUSES, Process
from jaxsoft.program import Factory, Lane, Plan, Program
from jaxsoft.progress import Report
from jaxsoft.signals import Interrupted, StopRequest, stop_on_signal
from jaxsoft.store import Layout, Store, Variable

__all__ = ["Interrupted", "Seeds", "Static", "run"]

CHUNK_FLOPS = 3e11  # a chunk is committed about every half minute of small-net work
CHUNK_BYTES = 2**28  # the most that the records and states of a chunk may take
CHECKPOINT_SECONDS = 60.0
MOST_RECORDS = 10_000_000  # of one run


@dataclass(frozen=True)
class Chunk:
    """A rectangle of lanes that is committed at once."""

    rows: range
    columns: range
    row_length: int

    @property
    def lanes(self) -> np.ndarray:
        """The numbers of its lanes, row by row."""
        return np.add.outer(np.array(self.rows) * self.row_length, np.array(self.columns)).ravel()

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)


@dataclass
class Pack:
    """Lanes that run side by side in one call; ``slots`` are their places in the chunk, -1 for a mere filler."""

    slots: np.ndarray
    lane: Lane
    segments: int


class Work:
    """A chunk in progress: its packs, and the results so far."""

    def __init__(self, program: Program, times: np.ndarray, lanes: int) -> None:
        like = program.outcome
        self.values: dict[str, np.ndarray] = {
            n: np.zeros((lanes, len(times), *x.shape), x.dtype) for n, x in like.record.items()
        }
        self.values |= {f"final_{n}": np.zeros((lanes, *x.shape), x.dtype) for n, x in like.final.items()}
        self.values |= {"status": np.zeros(lanes, np.int8), "steps": np.zeros(lanes, np.int32)}
        self.packs: list[Pack] = []

    @property
    def diverged(self) -> int:
        return int(np.sum(self.values["status"] == DIVERGED))

    def to_arrays(self, program: Program) -> dict[str, np.ndarray]:
        arrays = {f"value/{name}": value for name, value in self.values.items()}
        for i, pack in enumerate(self.packs):
            arrays |= {f"pack/{i}/{k}": leaf for k, leaf in enumerate(program.to_host(pack.lane))}
            arrays |= {f"slots/{i}": pack.slots, f"segments/{i}": np.array(pack.segments)}
        return arrays

    def from_arrays(self, program: Program, arrays: Mapping[str, np.ndarray]) -> None:
        self.values = {name: arrays[f"value/{name}"] for name in self.values}
        leaves = len(jax.tree.leaves(program.lane))
        for i in range(sum(name.startswith("slots/") for name in arrays)):
            lane = program.to_device([arrays[f"pack/{i}/{k}"] for k in range(leaves)])
            self.packs.append(Pack(arrays[f"slots/{i}"], lane, int(arrays[f"segments/{i}"])))


def record_times(steps: int, record_every: int) -> np.ndarray:
    """The steps at which a lane is recorded: 0, k, 2k, ..., and the last."""
    return np.append(np.arange(0, steps, record_every), steps)


def _chunks(grid: Grid, size: int) -> tuple[int, list[Chunk]]:
    """Cut the lanes into rectangles of about ``size``: pieces of one row, or whole rows."""
    columns = min(grid.columns, size)
    rows = max(1, size // grid.columns) if columns == grid.columns else 1
    chunks = []
    for r in range(0, grid.rows, rows):
        for c in range(0, grid.columns, columns):
            across, along = range(r, min(r + rows, grid.rows)), range(c, min(c + columns, grid.columns))
            chunks.append(Chunk(across, along, grid.columns))
    return columns, chunks


def _chunk_size(program: Program, plan: Plan, times: np.ndarray, steps: int) -> int:
    """How many lanes to commit at once, from the work and the memory of a lane; a multiple of a pack."""
    pack = plan.lanes * len(program.devices)
    like = program.outcome
    bytes_per_lane = sum(x.size * x.dtype.itemsize * len(times) for x in like.record.values())
    bytes_per_lane += sum(x.size * x.dtype.itemsize for x in like.final.values()) + 2 * plan.state_bytes
    lanes = min(CHUNK_FLOPS / (plan.flops * steps), CHUNK_BYTES / bytes_per_lane)
    return pack * max(1, int(lanes) // pack)


def _layout(grid: Grid, program: Program, times: np.ndarray, chunk_columns: int) -> Layout:
    like = program.outcome

    def extra(name: str, x: jax.Array) -> tuple[str, ...]:
        return tuple(f"{name}_{i}" for i in range(len(x.shape)))

    names = [*like.record, *(f"final_{n}" for n in like.final)]
    taken = {"step", "status", "steps", "committed", *grid.coordinates()}
    bad = [n for n in names if n in taken or names.count(n) > 1 or not n.isidentifier()]
    if bad:
        raise ValueError(f"process: expected records whose names are identifiers of their own, got {bad[0]!r}")
    variables = {
        n: Variable(("step", *extra(n, x)), (len(times), *x.shape), np.dtype(x.dtype)) for n, x in like.record.items()
    }
    variables |= {f"final_{n}": Variable(extra(n, x), x.shape, np.dtype(x.dtype)) for n, x in like.final.items()}
    variables |= {
        "status": Variable((), (), np.dtype(np.int8)),
        "steps": Variable((), (), np.dtype(np.int32)),
        "committed": Variable((), (), np.dtype(np.bool_)),
    }
    coords = {**grid.coordinates(), "step": (("step",), times)}
    return Layout(grid.dims, grid.shape, len(grid.lane_shape), chunk_columns, coords, variables)


def _check_alike(blocks: list[Block], programs: list[Program]) -> None:
    """All kinds share the arrays of the result, so they must record the same things."""

    def shapes(program: Program) -> dict[str, object]:
        like = program.outcome
        return {n: (x.shape, str(x.dtype)) for n, x in [*like.record.items(), *like.final.items()]}

    first = shapes(programs[0])
    for block, program in zip(blocks[1:], programs[1:], strict=True):
        if shapes(program) != first:
            raise ValueError(
                f"process: expected the same records for every kind, {blocks[0].labels} has {first} "
                f"and {block.labels} has {shapes(program)}"
            )


def _path(out: str | Path | None) -> Path | None:
    if out is not None and not isinstance(out, str | os.PathLike):
        raise TypeError(f"out: expected a path or None, got {type(out).__name__} {out!r}")
    return None if out is None else Path(out).absolute()


def _plain_config(config: Mapping[str, object] | None) -> dict[str, object]:
    """The configuration as the store will give it back."""
    try:
        return json.loads(json.dumps(dict(config or {})))
    except (TypeError, ValueError) as error:
        raise TypeError(f"config: expected plain data (numbers, texts, lists, mappings): {error}") from error


def _revision() -> str:
    """The git revision of the source, where there is one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip() if found.returncode == 0 else "unknown"


def _versions(*names: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in names}


def run(
    process: Factory | Process,
    axes: Axes,
    *,
    seed: int,
    steps: int,
    record_every: int = 1,
    out: str | Path | None = None,
    config: Mapping[str, object] | None = None,
    width: int | None = None,
    chunk: int | None = None,
    segment: int | None = None,
    progress: bool = False,
    verbose: bool = False,
) -> xr.Dataset:
    """Run a process over every combination of the axes, and return the labelled results.

    Args:
        process: a function of the axes' names that returns ``(init, step)``, or such a pair where all axes are seeds.
            It is called inside the traced function: kinds arrive as Python values, numbers as traced floats.
        axes: by name, in the order of the result's dimensions. ``Seeds(n)``: n independent keys. Numbers: lanes.
            Names, ``Static(...)`` or a mapping: kinds; a mapping's value is what the process receives, or a mapping
            of numbers that come with the name (``{"gd": {"learning_rate": 0.5}, "adam": {"learning_rate": 0.01}}``).
        seed: of the key; lane keys are ``fold_in(key(seed), run id)`` with the run id counted over the seed axes only,
            so that settings are compared on the same initial draws, whatever the chunks and the devices.
        steps: the most steps a lane may take.
        record_every: steps between records; the last state is recorded too.
        out: a folder for a Zarr store that is written chunk by chunk; the same call on it resumes. None: memory.
        config: plain data kept with the results, and compared on resuming.
        width, chunk, segment: lanes side by side on a device, lanes committed at once, and steps between two looks at
            the clock; planned if not given. A step with a while loop costs more than is counted: say segment.
        progress: show progress on standard error.
        verbose: say there how the lanes of each kind are laid out, and why.

    Returns:
        A dataset with dimensions (the axes..., step): what the process records, ``final_...`` of the last states,
        ``status`` (see its ``flag_meanings``), ``steps`` taken (for a diverged lane the step at which it broke), and
        ``committed``. With ``out`` arrays are read from disk on demand.

    Raises:
        ValueError, TypeError: for arguments that do not fit, each named; for an ``out`` that holds something else.
        Interrupted: after SIGINT or SIGTERM, at the end of the segment, everything done so far committed.
    """
    seed = checks.count("seed", seed, at_least=0, at_most=2**32 - 1)  # what a 32-bit key holds
    steps = checks.count("steps", steps, at_most=2**31 - 1)
    record_every = checks.count("record_every", record_every)
    if steps // record_every > MOST_RECORDS:
        least = -(-steps // MOST_RECORDS)
        raise ValueError(f"record_every: expected at least {least} for {steps} steps, got {record_every}")
    path = _path(out)
    config = _plain_config(config)
    for name, value in (("width", width), ("chunk", chunk), ("segment", segment)):
        if value is not None:
            checks.count(name, value)
    grid = Grid(axes)
    blocks = list(grid.blocks())
    times = record_times(steps, record_every)
    with Report(grid.lanes * len(blocks), steps, show=progress, verbose=verbose) as report, stop_on_signal() as stop:
        report.say("preparing")
        programs = [Program(process, block, list(grid.numbers), steps) for block in blocks]
        _check_alike(blocks, programs)
        device = jax.local_devices()[0]
        identity = {
            "axes": grid.describe(),
            "seed": seed,
            "steps": steps,
            "record_every": record_every,
            "config": config,
            "dtype": str(jnp.dtype(jnp.result_type(float))),
            "platform": device.platform,
            "versions": _versions("jaxsoft", "jax", "jaxlib", "optax"),
            "program": {str(b.labels): p.fingerprint() for b, p in zip(blocks, programs, strict=True)} if out else {},
        }
        together = grid.lanes if chunk is None else min(grid.lanes, chunk)
        first = programs[0].plan(record_every, together, width, segment=segment)
        columns, chunks = _chunks(grid, chunk or _chunk_size(programs[0], first, times, steps))
        about = {
            **config,
            **identity,
            "order": [*grid.order, "step"],
            "statuses": list(STATUSES),
            "device": device.device_kind,
            "devices": len(jax.local_devices()),
            "chunk": len(chunks[0]),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "revision": _revision(),
        }
        with Store(path, identity, about) as store:
            store.create(_layout(grid, programs[0], times, columns))
            engine = _Engine(grid, store, report, stop, times, jax.random.key(seed), record_every)
            for number, (block, program) in enumerate(zip(blocks, programs, strict=True)):
                like = first if number else None
                plan = functools.partial(program.plan, record_every, together, width, like, segment)
                engine.run_block(number, block, program, chunks, plan)
            store.drop_partial()
            dataset = store.dataset()
    dataset["status"].attrs |= {"flag_values": list(range(len(STATUSES))), "flag_meanings": " ".join(STATUSES)}
    return dataset


@dataclass
class _Engine:
    """The loop over chunks and segments: the only one there is."""

    grid: Grid
    store: Store
    report: Report
    stop: StopRequest
    times: np.ndarray
    key: jax.Array
    record_every: int

    def run_block(
        self, number: int, block: Block, program: Program, chunks: list[Chunk], plan: Callable[[], Plan]
    ) -> None:
        """Run what is not committed yet of one block."""
        committed = self.store.committed(block.index)
        todo = [i for i, c in enumerate(chunks) if not committed[c.lanes].all()]
        left = sum(len(chunks[i]) for i in todo)
        self.report.resumed(self.grid.lanes - left)
        if not todo:
            return
        name = ", ".join(map(str, block.labels)) or "process"
        self.report.say(f"compiling {name}")
        sizes = plan()
        self.report.explain(f"{name}: {program.explanation}")
        program.compile(sizes)
        self.report.say(name)
        partial = self.store.load_partial()
        # Devices of a CPU that all call LAPACK would otherwise fight for the same cores.
        with threadpool_limits(1 if len(program.devices) > 1 else None, user_api="blas"):
            for i in todo:
                work = Work(program, self.times, len(chunks[i]))
                mark = np.array([number, i, sizes.width, sizes.blocks, sizes.interval, sizes.looks])
                if partial is not None and np.array_equal(partial["mark"], mark):
                    work.from_arrays(program, partial)
                    partial = None
                else:
                    work.packs = list(self._packs(program, chunks[i].lanes))
                self._run_chunk(program, chunks[i], work, mark)
                self.store.commit(block.index, chunks[i].rows, chunks[i].columns, work.values)
                self.store.drop_partial()
                self.report.finished(len(chunks[i]), work.diverged)

    def _packs(self, program: Program, lanes: np.ndarray) -> Iterator[Pack]:
        """Start the lanes of a chunk, in packs of one size; the last one is filled up with copies."""
        size = program.plan_used.lanes * len(program.devices)
        for begin in range(0, len(lanes), size):
            slots = np.full(size, -1)
            count = min(size, len(lanes) - begin)
            slots[:count] = np.arange(begin, begin + count)
            numbers, runs = self.grid.point(lanes[np.maximum(slots, 0)])
            yield Pack(slots, program.start(self.key, runs, numbers), 0)

    def _run_chunk(self, program: Program, chunk: Chunk, work: Work, mark: np.ndarray) -> None:
        """Segment by segment until every lane has ended, dropping those that have between segments."""
        saved = time.monotonic()
        segment = min((pack.segments for pack in work.packs), default=0)
        while work.packs:
            for pack in work.packs:
                if pack.segments > segment:
                    continue
                self._run_segment(program, chunk, work, pack)
                if self.stop.signum:
                    self.store.save_partial({"mark": mark, **work.to_arrays(program)})
                    raise Interrupted(self._farewell(), self.stop.signum)
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self.store.save_partial({"mark": mark, **work.to_arrays(program)})
                    saved = time.monotonic()
            work.packs = _drop_finished(program, work)
            segment += 1

    def _run_segment(self, program: Program, chunk: Chunk, work: Work, pack: Pack) -> None:
        plan = program.plan_used
        count = int(np.sum(pack.slots >= 0))  # fillers stand at the end
        slots = pack.slots[:count]
        numbers, _ = self.grid.point(chunk.lanes[np.maximum(pack.slots, 0)])
        before = work.values["steps"][slots]
        running = work.values["status"][slots] == RUNNING
        pack.lane, records, outcome = program.segment(pack.lane, program.numbers(numbers, len(pack.slots)))
        status = np.asarray(outcome.status)[:count]
        unknown = status[(status < 0) | (status >= len(STATUSES))]
        if len(unknown):
            raise ValueError(
                f"process: expected done to be 0 to {len(STATUSES) - 1} ({', '.join(STATUSES)}), got {unknown[0]}"
            )
        work.values["steps"][slots] = np.asarray(pack.lane.steps)[:count]
        work.values["status"][slots] = status

        kept, places = self._kept(plan, pack.segments)
        pack.segments += 1
        ended = slots[work.values["status"][slots] != RUNNING]
        rest = -(-pack.segments * plan.looks * plan.interval // self.record_every)
        for name, series in records.items():
            work.values[name][slots, places] = np.asarray(series)[:count, kept]
        if len(ended):
            among = np.flatnonzero(np.isin(pack.slots, ended))
            for name, last in outcome.record.items():
                work.values[name][ended, min(rest, len(self.times) - 1) :] = np.asarray(last)[among][:, None]
            for name, last in outcome.final.items():
                work.values[f"final_{name}"][ended] = np.asarray(last)[among]
        taken = float(np.sum(work.values["steps"][slots] - before))
        gone = work.values["status"][slots] != RUNNING
        spared = float(np.sum((self.times[-1] - work.values["steps"][slots])[gone & running]))
        self.report.advanced(taken, taken + spared)

    def _kept(self, plan: Plan, segment: int) -> tuple[slice, slice]:
        """Which looks of a segment are recorded, and their places among the records."""
        every = self.record_every // plan.interval  # the interval divides it
        first = segment * plan.looks
        begin = -(-first // every)
        end = max(begin, min(-(-(first + plan.looks) // every), len(self.times) - 1))
        return slice(begin * every - first, end * every - first, every), slice(begin, end)

    def _farewell(self) -> str:
        done = f"{self.report.done} of {self.report.total} runs are committed"
        if self.store.out is None:
            return f"interrupted; {done}, in memory only: give out= to keep them"
        kept = f"in {self.store.out}, and the work in hand is kept"
        return f"interrupted; {done} {kept}: run the same command to resume"


def _drop_finished(program: Program, work: Work) -> list[Pack]:
    """Packs without lanes that have ended, closed up when that saves a pack; the order of lanes stays."""
    status = work.values["status"]
    live = [(pack.slots >= 0) & (status[np.maximum(pack.slots, 0)] == RUNNING) for pack in work.packs]
    packs = [pack for pack, mask in zip(work.packs, live, strict=True) if mask.any()]
    masks = [mask for mask in live if mask.any()]
    size = program.plan_used.lanes * len(program.devices)
    if -(-sum(int(m.sum()) for m in masks) // size) >= len(packs):
        return packs
    leaves = [program.to_host(pack.lane) for pack in packs]
    joined = [np.concatenate([h[k][m] for h, m in zip(leaves, masks, strict=True)]) for k in range(len(leaves[0]))]
    slots = np.concatenate([pack.slots[m] for pack, m in zip(packs, masks, strict=True)])
    closed = []
    for begin in range(0, len(slots), size):
        index = np.arange(begin, begin + size)
        index = np.where(index < len(slots), index, begin)
        padded = np.where(np.arange(size) < len(slots) - begin, slots[index], -1)
        closed.append(Pack(padded, program.to_device([leaf[index] for leaf in joined]), packs[0].segments))
    return closed
