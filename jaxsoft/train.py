"""Training as a process: any optax transform on any problem, as ``(init, step)``."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsoft import checks, optimizers
from jaxsoft.curvature import value_and_grad
from jaxsoft.problem import LossFn, Metrics, Params, Problem
from jaxsoft.process import CONVERGED, DIVERGED, RUNNING, Info, Process


@dataclass(frozen=True)
class Form:
    """How a vector of parameters is a pytree: its structure, and the shape of each leaf.

    mirrors: for each leaf of the optimizer's state, whether its last axis is that of the vector.
    """

    structure: jax.tree_util.PyTreeDef
    shapes: tuple[tuple[int, ...], ...]
    mirrors: tuple[bool, ...]

    def unflatten(self, vector: Params) -> Params:
        """The inverse of ``flatten`` for pytrees of this form, along the last axis."""
        array = jnp.asarray(vector)
        pieces = jnp.split(array, np.cumsum([math.prod(shape) for shape in self.shapes])[:-1], axis=-1)
        ahead = array.shape[:-1]
        return self.structure.unflatten([x.reshape(*ahead, *s) for x, s in zip(pieces, self.shapes, strict=True)])

    def unflatten_state(self, moments: optax.OptState) -> optax.OptState:
        leaves, structure = jax.tree.flatten(moments)
        pairs = zip(leaves, self.mirrors, strict=True)
        return structure.unflatten([self.unflatten(leaf) if mirrors else leaf for leaf, mirrors in pairs])


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["theta", "moments", "loss", "grad", "batch_key", "noise_key", "step"],
    meta_fields=["form"],
)
@dataclass(frozen=True)
class TrainState:
    """What the next step needs. ``loss`` and ``grad`` belong to ``theta`` (and to the batch of ``step``).

    theta, grad: the parameters and ∇L, as one vector (P,) where there is a ``form``, or else as the problem has them.
    moments: the optimizer's state for ``theta``.
    """

    theta: Params
    moments: optax.OptState
    loss: jax.Array
    grad: optax.Updates
    batch_key: jax.Array
    noise_key: jax.Array
    step: jax.Array
    form: Form | None

    @property
    def params(self) -> Params:
        """The parameters as the problem has them, with the leading axes of many states."""
        return self.theta if self.form is None else self.form.unflatten(self.theta)

    @property
    def opt_state(self) -> optax.OptState:
        """The optimizer's state for these parameters, with the leading axes of many states."""
        return self.moments if self.form is None else self.form.unflatten_state(self.moments)


def batch_indices(key: jax.Array, step: jax.Array, num_examples: int, batch_size: int) -> jax.Array:
    """The example indices of one step: epochs without replacement, a fresh permutation for each, from the key alone.

    Epoch e holds ⌊n / batch_size⌋ batches, cut from ``permuted`` with ``fold_in(key, e)``; the remainder of an epoch is
    left out, as the next permutation brings it back.
    """
    per_epoch = num_examples // batch_size
    epoch, position = step // per_epoch, step % per_epoch
    return permuted(jax.random.fold_in(key, epoch), position * batch_size + jnp.arange(batch_size), num_examples)


def permuted(key: jax.Array, places: jax.Array, n: int) -> jax.Array:
    """What stands at these places of a random permutation of 0..n-1, without making the rest of it: no sort.

    The swap-or-not shuffle: each of 16 + 4 log2 n rounds draws K, pairs x with K - x mod n, and swaps the pair or not,
    by one pseudorandom bit of the larger. Hoang, Morris & Rogaway (2012), "An enciphering scheme based on a card
    shuffle".

    >>> sorted(permuted(jax.random.key(0), jnp.arange(5), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    rounds = 16 + 4 * max(n - 1, 1).bit_length()
    pivots, salts = jax.random.bits(key, (2, rounds))

    def swap(x: jax.Array, drawn: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        pivot, salt = drawn
        partner = jnp.where(pivot < x, pivot - x + n, pivot - x)
        return jnp.where(_bit(jnp.maximum(x, partner), salt), partner, x), None

    return jax.lax.scan(swap, places.astype(jnp.int32), ((pivots % n).astype(jnp.int32), salts))[0]


def _bit(x: jax.Array, salt: jax.Array) -> jax.Array:
    """A pseudorandom bit of (x, salt): the finalizer of MurmurHash3 (Appleby 2011)."""
    h = x.astype(jnp.uint32) ^ salt
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return (h ^ (h >> 16)) & 1 == 1


def flatten(params: Params) -> jax.Array:
    """All parameters as one vector (P,), in the order of ``jax.tree.leaves``."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])


def make_train(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int | None = None,
    tolerance: float | jax.Array = 0.0,
    probe: Metrics | None = None,
    keep_params: bool = False,
) -> Process[TrainState]:
    """Training as ``(init, step)``: θ_{t+1} = θ_t + u_t with u_t the optimizer's update of ∇L(θ_t).

    Every step records ``loss`` and ``grad_norm`` (the 2-norm of ∇L over all parameters), and what ``probe(params)``
    returns. With ``keep_params`` the final parameters are kept too, as one vector ``params`` (P,). A run ends early as
    converged where grad_norm < tolerance, and as diverged where the loss is not finite.

    ``batch_size`` draws mini-batches by index inside the step (see ``batch_indices``); None is the full batch, and the
    recorded loss is then that of all the data. The optimizer also receives what ``optimizers.update`` passes on, so
    line searches and noise work. One that is marked ``optimizers.elementwise``, as most of ``optimizers.make`` are, has
    all parameters as one vector where they are of one type, which takes less time.

    Raises ValueError for a batch size outside [1, n], or where the problem has no examples; a negative tolerance.
    """
    checks.non_negative("tolerance", tolerance)
    if batch_size is not None:
        checks.count("batch_size", batch_size)
        if problem.batch is None:
            raise ValueError(f"batch_size: expected None for a problem without examples, got {batch_size}")
        if batch_size > problem.num_examples:
            raise ValueError(f"batch_size: expected at most {problem.num_examples} (the examples), got {batch_size}")
    transform = optax.with_extra_args_support(optimizer)

    def loss_at(key: jax.Array, step: jax.Array) -> LossFn:
        if batch_size is None or problem.batch is None:
            return problem.loss
        return problem.batch(batch_indices(key, step, problem.num_examples, batch_size))

    def measured(loss: LossFn, theta: Params, form: Form | None) -> tuple[jax.Array, optax.Updates]:
        value, grad = value_and_grad(loss, form.unflatten(theta) if form else theta)
        return value, flatten(grad) if form else grad

    def init(key: jax.Array) -> TrainState:
        init_key, batch_key, noise_key = jax.random.split(key, 3)
        params = problem.init(init_key)
        step = jnp.zeros((), jnp.int32)
        first = loss_at(batch_key, step)
        at_start = jax.eval_shape(first, params)
        if at_start.shape != ():
            raise TypeError(f"problem: expected a loss that is one number, got shape {at_start.shape}")
        form = _form(params, transform) if isinstance(transform, optimizers.Elementwise) else None
        theta = flatten(params) if form else params
        loss, grad = measured(first, theta, form)
        return TrainState(theta, transform.init(theta), loss, grad, batch_key, noise_key, step, form)

    def describe(state: TrainState) -> Info:
        grad_norm = optax.tree.norm(state.grad)
        finite = jnp.isfinite(state.loss)
        done = jnp.where(finite, jnp.where(grad_norm < tolerance, CONVERGED, RUNNING), DIVERGED)
        record = {"loss": state.loss, "grad_norm": grad_norm}
        record |= probe(state.params) if probe is not None else {}
        final = {"params": flatten(state.theta)} if keep_params else {}
        return Info(done.astype(jnp.int32), record, final)

    def step(state: TrainState) -> tuple[TrainState, Info]:
        form, here = state.form, loss_at(state.batch_key, state.step)
        updates, moments = optimizers.update(
            transform,
            state.grad,
            state.moments,
            state.theta,
            value=state.loss,
            value_fn=(lambda theta: here(form.unflatten(theta))) if form else here,
            key=jax.random.fold_in(state.noise_key, state.step),
        )
        theta = optax.apply_updates(state.theta, updates)
        following = state.step + 1
        loss, grad = measured(loss_at(state.batch_key, following), theta, form)
        moved = replace(state, theta=theta, moments=moments, loss=loss, grad=grad, step=following)
        return moved, describe(state)

    return Process(init, step)


def _form(params: Params, transform: optax.GradientTransformation) -> Form | None:
    """The form of these parameters; None where they are of several types, and make no vector."""
    leaves, structure = jax.tree.flatten(params)
    kinds = {jnp.result_type(leaf) for leaf in leaves}
    if len(kinds) != 1:
        return None
    size = sum(map(jnp.size, leaves))
    vectors = (jax.ShapeDtypeStruct((length,), *kinds) for length in (size, size + 1))
    lengths = [jax.tree.leaves(jax.eval_shape(transform.init, vector)) for vector in vectors]
    mirrors = tuple(one.shape != longer.shape for one, longer in zip(*lengths, strict=True))
    return Form(structure, tuple(jnp.shape(leaf) for leaf in leaves), mirrors)
