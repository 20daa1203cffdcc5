"""One kind of process as compiled programs: many lanes side by side, in segments, on every device.

A lane knows nothing of the others. Lanes are vmapped in blocks whose working set fits the cache, one block on each
device; a block's width never changes, so a lane's numbers do not depend on how many lanes there are, from two on. Where
a lane decomposes matrices on a CPU, the lanes of a block run one after the other: LAPACK gains nothing from a batch,
and before jaxlib 0.12 batches on several devices wait for each other for ever.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxsoft import flops, machine
from jaxsoft.axes import Block
from jaxsoft.process import DIVERGED, MAX_STEPS, RUNNING, Info, Process, State

SEGMENT_FLOPS = 2e10  # one segment of one device: about a second of small-net work on one core
CACHE_SHARE = 0.5  # of a core's second-level cache, for a block of lanes on a CPU
LEAST_CACHE = 2**19  # bytes for a block where that is less, as there is a larger cache behind it
SEVERAL = 8  # lanes among which the memory of one is measured
CALL_BYTES = 2**26  # the most that the states and records of one call may take
BLOCK_BYTES = 2**25  # what lanes that run one after the other may hold together
CPU_WIDTH, ACCELERATOR_WIDTH = 128, 4096  # the most lanes worth having side by side on a device

Numbers = dict[str, jax.Array]
Records = dict[str, jax.Array]
Factory = Callable[..., Process[State]]
Step = Callable[[State], tuple[State, Info]]
Made = TypeVar("Made")

MOST_COMPILED = 32
_COMPILED: OrderedDict[tuple[Hashable, ...], Any] = OrderedDict()


class Lane(NamedTuple, Generic[State]):
    """One run: the state of its process, its status, and the number of steps taken."""

    state: State
    status: jax.Array
    steps: jax.Array


class Outcome(NamedTuple):
    """A lane as it stands: its status if it ended here, and what its process says of it; ``final`` if it has ended."""

    status: jax.Array
    record: Records
    final: Records


def turned_non_finite(old: object, new: object) -> jax.Array:
    """Whether any number became NaN, or went from finite to infinite."""

    def bad(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.isnan(b) | (jnp.isinf(b) & jnp.isfinite(a))

    found: dict[tuple[int, ...], jax.Array] = {}  # by shape: what moments and gradient have in one place is asked once
    for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        if jnp.issubdtype(b.dtype, jnp.inexact):
            found[b.shape] = found.get(b.shape, False) | bad(a, b)
    return functools.reduce(jnp.logical_or, map(jnp.any, found.values()), jnp.zeros((), jnp.bool_))


def build(process: Factory | Process, block: Block, numbers: Numbers) -> Process:
    """The ``(init, step)`` of one lane, from its kinds and its (traced) numbers."""
    if isinstance(process, tuple):
        if block.kinds or numbers:
            raise TypeError(
                f"process: expected a function of {', '.join([*block.kinds, *numbers])} that returns (init, step), "
                "got a bare pair, which cannot vary along these axes"
            )
        return Process(*process)
    made = process(**block.kinds, **numbers)
    if not (isinstance(made, tuple) and len(made) == 2 and all(callable(f) for f in made)):
        raise TypeError(f"process: expected a function that returns a pair (init, step), got {type(made).__name__}")
    return Process(*made)


def start(process: Process, key: jax.Array, run: jax.Array) -> Lane:
    """Draw a lane's first state from the key of its global run id."""
    drawn = process.init(jax.random.fold_in(key, run))
    state = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else jnp.array(x), drawn)
    finite = [jnp.all(~jnp.isnan(x)) for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    healthy = functools.reduce(jnp.logical_and, finite, jnp.ones((), jnp.bool_))
    return Lane(state, jnp.where(healthy, RUNNING, DIVERGED).astype(jnp.int32), jnp.zeros((), jnp.int32))


def advance(step: Step, lane: Lane, limit: jax.Array) -> Lane:
    """One step, unless the lane has ended. A step that turns non-finite is counted, and not taken."""
    following, info = step(lane.state)
    status = jnp.where(lane.status == RUNNING, info.done, lane.status)
    live = (status == RUNNING) & (lane.steps < limit)
    broken = live & turned_non_finite(lane.state, following)
    taken = live & ~broken
    state = jax.tree.map(lambda new, old: jnp.where(taken, new, old), following, lane.state)
    return Lane(state, jnp.where(broken, DIVERGED, status), lane.steps + live.astype(jnp.int32))


def outcome(step: Step, lane: Lane, limit: jax.Array) -> Outcome:
    """What is known of a lane now; its status is ``RUNNING`` only if it has steps left, and then ``final`` is zero."""
    info = step(lane.state)[1]
    status = jnp.where(lane.status == RUNNING, info.done, lane.status)
    status = jnp.where((status == RUNNING) & (lane.steps >= limit), MAX_STEPS, status)
    nothing = jax.tree.map(jnp.zeros_like, info.final)
    final = jax.lax.cond(status == RUNNING, lambda: nothing, lambda: step(lane.state)[1].final)
    return Outcome(status, info.record, final)


@dataclass(frozen=True)
class Plan:
    """Sizes of one block's programs.

    width: lanes side by side on one device, a block. blocks: how many of them a device runs in one call, one after the
    other. interval: steps between two looks. looks: looks in a segment. flops: of one step of one lane, as the compiler
    counts. state_bytes: what a lane holds between two segments.
    """

    width: int
    blocks: int
    interval: int
    looks: int
    flops: float
    state_bytes: int

    @property
    def lanes(self) -> int:
        """Of one device in one call."""
        return self.width * self.blocks


class Program:
    """The compiled functions of one block of a sweep."""

    def __init__(self, process: Factory | Process, block: Block, number_names: list[str], limit: int) -> None:
        self._process, self._block = process, block
        self._number_dtypes = {name: jnp.result_type(float) for name in [*number_names, *block.numbers]}
        self.limit = jnp.asarray(limit, jnp.int32)
        self.explanation = ""  # of the last plan, for people
        self.devices = jax.local_devices()
        self.mesh = Mesh(np.array(self.devices), ("lanes",), axis_types=(AxisType.Auto,))
        self.sharding = NamedSharding(self.mesh, PartitionSpec("lanes"))

        self._traced_start = jax.jit(self._trace_start, inline=True)
        self._traced_step = jax.jit(self._trace_step, inline=True)

    def _trace_start(self, key: jax.Array, run: jax.Array, numbers: Numbers) -> Lane:
        return start(build(self._process, self._block, numbers), key, run)

    def _trace_step(self, state: State, numbers: Numbers) -> object:
        return build(self._process, self._block, numbers).step(state)

    def _step(self, numbers: Numbers) -> Step:
        """One lane's step, traced once by itself and once on the mesh, however many programs use it."""
        return lambda state: self._traced_step(state, numbers)

    @functools.cached_property
    def lane(self) -> Lane:
        """Shapes and types of one lane."""
        return jax.eval_shape(self._traced_start, *self._lane_arguments())

    @functools.cached_property
    def outcome(self) -> Outcome:
        """Shapes and types of one lane's outcome; checks that a step gives back what it takes."""
        numbers = self._lane_arguments()[2]
        pair = jax.eval_shape(lambda lane, n: self._step(n)(lane.state), self.lane, numbers)
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Info)):
            raise TypeError(f"process: expected step to return a pair (state, Info(...)), got {type(pair).__name__}")
        following, info = pair
        for name, value in [*info.record.items(), *info.final.items()]:
            if not isinstance(value, jax.ShapeDtypeStruct):
                raise TypeError(f"process: expected records that are arrays, {name!r} is a {type(value).__name__}")
            if value.size == 0:
                raise TypeError(f"process: expected records that hold a number, {name!r} has shape {value.shape}")
        try:
            chex.assert_trees_all_equal_shapes_and_dtypes(following, self.lane.state)
            chex.assert_type(info.done, jnp.int32)
            chex.assert_shape(info.done, ())
        except AssertionError as error:
            said = " ".join(str(error).split())
            raise TypeError(
                f"process: expected step to return a state like the one it takes, and done as an int32 scalar: {said}"
            ) from error
        return Outcome(*info)

    def _lane_arguments(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct, dict[str, jax.ShapeDtypeStruct]]:
        key = jax.eval_shape(lambda: jax.random.key(0))
        numbers = {name: jax.ShapeDtypeStruct((), dtype) for name, dtype in self._number_dtypes.items()}
        return key, jax.ShapeDtypeStruct((), jnp.uint32), numbers

    def _advance(self, lane: Lane, numbers: Numbers) -> Lane:
        return advance(self._step(numbers), lane, self.limit)

    @functools.cached_property
    def _text(self) -> str:
        """What a process computes: its start and its step, with the data, as one program."""

        def both(key: jax.Array, run: jax.Array, numbers: Numbers, state: State) -> object:
            return self._traced_start(key, run, numbers), self._traced_step(state, numbers)

        # Numbers that are not used keep their place, or a process of another one would have the same text.
        return jax.jit(both, keep_unused=True).lower(*self._lane_arguments(), self.lane.state).as_text()

    def fingerprint(self) -> str:
        """A hash of what one lane computes, the same in every process."""
        return hashlib.sha256(self._text.encode()).hexdigest()[:16]

    @functools.cached_property
    def one_by_one(self) -> bool:
        """Whether the lanes of a block run one after the other."""
        return self.devices[0].platform == "cpu" and "@lapack_" in self._text

    def plan(
        self,
        record_every: int,
        lanes: int,
        width: int | None = None,
        like: Plan | None = None,
        segment: int | None = None,
    ) -> Plan:
        """Sizes from the operations of one step and the memory of one lane, both asked of the compiler.

        A kind whose step costs within a factor of two of another's takes that plan's width, and spares a compilation.
        ``segment``: the most steps of a segment, where a while loop takes more than is counted.
        """
        operations = self._compiled_once("flops", self._flops)
        state_bytes = _bytes(self.lane)
        reason = "as asked"
        if width is None and like is not None and 0.5 <= operations / like.flops <= 2.0:
            width, reason = like.width, "like the first kind, whose step costs about the same"
        if width is None:
            needed = -(-lanes // len(self.devices))
            scratch = self._compiled_once("memory", self._scratch_bytes) if needed > 1 else 0
            lane_bytes = state_bytes + scratch
            on_cpu = self.devices[0].platform == "cpu"
            most = CPU_WIDTH if on_cpu else ACCELERATOR_WIDTH
            cache = max(LEAST_CACHE, int(CACHE_SHARE * machine.cache_bytes()))
            fitting = BLOCK_BYTES if self.one_by_one else cache
            room = fitting // max(lane_bytes, 1) if on_cpu else most
            width = max(1, min(most, _power_of_two_below(room), _power_of_two_above(needed)))
            reason = f"a lane works on {_size(lane_bytes)}, a block may on {_size(fitting)}" if on_cpu else "the most"
            reason += f"; {needed} lanes a device" if width >= needed else ""
        budget = max(1, int(SEGMENT_FLOPS / (operations * width))) if segment is None else segment
        interval = max(d for d in range(1, record_every + 1) if record_every % d == 0 and (d <= budget or d == 1))
        looks = _even(max(1, -(-int(self.limit) // interval)), min(max(1, budget // interval), 4096))
        blocks = 1 if segment else self._blocks(width, interval * looks, budget, lanes, state_bytes)
        side = "one after the other" if self.one_by_one else "side by side"
        self.explanation = (
            f"{width} {'lane' if width == 1 else f'lanes {side}'} on each of {len(self.devices)} devices ({reason}); "
            f"{blocks} such {'block' if blocks == 1 else 'blocks'} and {interval * looks} steps a call, "
            f"of {operations:.3g} operations a lane"
        )
        return Plan(width, blocks, interval, looks, operations, state_bytes)

    def _blocks(self, width: int, steps: int, budget: int, lanes: int, state_bytes: int) -> int:
        """More than one where they run to the end within the time of a segment: each call costs the host some ms."""
        if steps < int(self.limit):
            return 1
        all_blocks = -(-lanes // (width * len(self.devices)))
        bytes_per_block = width * len(self.devices) * (state_bytes + steps * _bytes(self.outcome.record))
        most = max(1, min(budget // steps, CALL_BYTES // bytes_per_block, all_blocks))
        # The last call computes as many blocks as the rest; the host takes about a hundredth of a segment for a call.
        return min(range(1, most + 1), key=lambda count: -(-all_blocks // count) * (count + 0.01 * most))

    def _flops(self) -> float:
        traced = jax.make_jaxpr(self._advance)(self.lane, self._lane_arguments()[2])
        return max(flops.count(traced), 1.0)

    def _scratch_bytes(self) -> int:
        """What a lane works on, beside its state and what all lanes of a block share."""
        lane, numbers = self.lane, self._lane_arguments()[2]
        if self.one_by_one:
            together, compiled = 1, self._translated(jax.jit(self._advance).lower(lane, numbers))
        else:
            several = jax.tree.map(lambda x: jax.ShapeDtypeStruct((SEVERAL, *x.shape), x.dtype), (lane, numbers))
            together, compiled = SEVERAL, self._translated(jax.jit(jax.vmap(self._advance)).lower(*several))
        memory = compiled.memory_analysis()
        return memory.temp_size_in_bytes // together if memory is not None else 0

    def _compiled_once(self, what: Hashable, make: Callable[[], Made]) -> Made:
        """What was made for the same computation before. A callback's text does not say which function it calls."""
        if "callback" in self._text:
            return make()
        names = jax.tree.structure((self.lane, self.outcome, self._number_dtypes))  # the text knows only places
        key = (what, names, self.fingerprint())
        if key not in _COMPILED:
            while len(_COMPILED) >= MOST_COMPILED:
                _COMPILED.popitem(last=False)
            _COMPILED[key] = make()
        _COMPILED.move_to_end(key)
        return _COMPILED[key]

    def compile(self, plan: Plan) -> None:
        """Compile the start and the segment for the planned sizes, once."""
        self.plan_used = plan
        self._start, self._segment = self._compiled_once(plan, lambda: self._compile(plan))

    def _compile(self, plan: Plan) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
        lanes = plan.lanes * len(self.devices)

        def segment(limit: jax.Array, lane: Lane, numbers: Numbers) -> tuple[Lane, Records, Outcome]:
            step = self._step(numbers)

            def look(lane: Lane, _: None) -> tuple[Lane, Records]:
                record = step(lane.state)[1].record
                lane = jax.lax.fori_loop(0, plan.interval, lambda _, x: advance(step, x, limit), lane)
                return lane, record

            lane, records = jax.lax.scan(look, lane, length=plan.looks)
            return lane, records, outcome(step, lane, limit)

        key, run, numbers = self._lane_arguments()
        many = functools.partial(self._many, lanes)
        starting = self._sharded(self._traced_start, plan.width).lower(key, many(run), many(numbers))
        running = self._sharded(segment, plan.width, donate=1).lower(self.limit, many(self.lane), many(numbers))
        return self._translated(starting), self._translated(running)

    def _translated(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        """Compiled as this machine can use it."""
        return lowered.compile(compiler_options=dict(machine.compiler_options(self.devices[0].platform)))

    def _many(self, lanes: int, tree: object) -> object:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((lanes, *x.shape), x.dtype, sharding=self.sharding), tree)

    def _sharded(self, function: Callable[..., object], width: int, donate: int | None = None) -> jax.stages.Wrapped:
        """``function(shared, lane arguments...)`` for all lanes: blocks of ``width`` on each device, no exchange."""

        def blocks(shared: jax.Array, *lanes: object) -> object:
            def one(lane: tuple[object, ...]) -> object:
                return function(shared, *lane)

            count = len(jax.tree.leaves(lanes)[0])
            if count == 1:  # without the batch dimension matrix products stay plain
                return jax.tree.map(lambda x: x[None], one(jax.tree.map(lambda x: x[0], lanes)))
            if width == 1 or self.one_by_one:
                return jax.lax.map(one, lanes)
            return jax.vmap(one)(lanes) if count == width else jax.lax.map(one, lanes, batch_size=width)

        per_lane = PartitionSpec("lanes")

        def everywhere(shared: jax.Array, *lanes: object) -> object:
            return jax.shard_map(
                blocks,
                mesh=self.mesh,
                in_specs=(PartitionSpec(), *(per_lane for _ in lanes)),
                out_specs=per_lane,
                check_vma=False,
            )(shared, *lanes)

        donated = () if donate is None else (donate,)
        return jax.jit(everywhere, out_shardings=self.sharding, donate_argnums=donated)

    def start(self, key: jax.Array, runs: np.ndarray, numbers: Mapping[str, np.ndarray]) -> Lane:
        return self._start(key, jax.device_put(runs, self.sharding), self.numbers(numbers, len(runs)))

    def segment(self, lane: Lane, numbers: Numbers) -> tuple[Lane, Records, Outcome]:
        return self._segment(self.limit, lane, numbers)

    def numbers(self, numbers: Mapping[str, np.ndarray], lanes: int) -> Numbers:
        """Each lane's numbers on its device, the block's own beside them."""
        own = {name: np.full(lanes, value) for name, value in self._block.numbers.items()}
        return {
            name: jax.device_put(np.asarray(values, self._number_dtypes[name]), self.sharding)
            for name, values in {**numbers, **own}.items()
        }

    def to_host(self, lane: Lane) -> list[np.ndarray]:
        """The leaves of many lanes as plain arrays (keys as their data)."""
        return [
            np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
            for x in jax.tree.leaves(lane)
        ]

    def to_device(self, leaves: list[np.ndarray]) -> Lane:
        """The inverse of ``to_host``."""
        shapes, structure = jax.tree.flatten(self.lane)

        def place(leaf: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
            if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
                return jax.device_put(jax.random.wrap_key_data(jnp.asarray(leaf)), self.sharding)
            return jax.device_put(leaf, self.sharding)

        return jax.tree.unflatten(structure, [place(a, s) for a, s in zip(leaves, shapes, strict=True)])


def _bytes(tree: object) -> int:
    # A key's dtype has no item size of its own; its data is a few words.
    return sum(x.size * (x.dtype.itemsize if jnp.issubdtype(x.dtype, jnp.number) else 8) for x in jax.tree.leaves(tree))


def _size(count: int) -> str:
    return f"{count / 2**20:.3g} MiB" if count >= 2**20 else f"{count / 2**10:.3g} KiB"


def _even(total: int, most: int) -> int:
    """The size of as few equal parts as have at most ``most`` each, or the last would be computed for little."""
    return -(-total // -(-total // most))


def _power_of_two_below(n: int) -> int:
    return 1 << (max(n, 1).bit_length() - 1)


def _power_of_two_above(n: int) -> int:
    return 1 << (max(n, 1) - 1).bit_length()
