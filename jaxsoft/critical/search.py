"""A search for a point of zero gradient as a process, and its verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxsoft import checks
from jaxsoft.critical.methods import METHODS, Iterate, Memory, Method, Surface, eigenvector_following, reach
from jaxsoft.critical.minres import Solution, minres
from jaxsoft.curvature.products import Composite, Flat, Loss, Params, check, hessian
from jaxsoft.process import CONVERGED, RUNNING, Info, Process

MAKERS = (*METHODS.values(), eigenvector_following)
VERDICTS = ("critical", "gradient_flat", "diverging_to_infinity", "max_steps", "failed")
CRITICAL, GRADIENT_FLAT, DIVERGING_TO_INFINITY, MAX_STEPS, FAILED = range(5)

FLAT = 0.9  # r above which a point is gradient-flat (Frye et al. 2021)
NEAR = 1e-2  # a critical point is at most so far, relative to 1 + ‖θ‖
ROUNDING = 4  # ε ‖H_i‖ max(‖θ‖, 1), rows of H: so much of g_i may be mere rounding
STEPS = 3
SHORTER, HARDLY_SHORTER = 0.75, 0.95  # steps do not converge if longer than that times the one before; the latter near
FAR, TURNS = 20, 100  # a ray is followed as far as 2²⁰ (1 + ‖θ‖); so often is its direction turned
HALVINGS = 60  # of the bracket around the place where the slope along a ray vanishes
VERDICT_PRODUCTS = 1000
CLOSED_FORM_SIZE = 256  # up to so many parameters a Hessian in closed form replaces the products
PROBES = 8  # random vectors behind ‖H‖_F
NUMBERS = ("flatness", "kernel", "distance", "norm", "drift")


class SearchState(NamedTuple):
    """Where a search stands, what its method remembers, whether it is stuck, the key of its noise, its steps.

    moved: the length of the step that led here, infinite at the start.
    """

    at: Iterate
    memory: Memory
    stuck: jax.Array
    key: jax.Array
    step: jax.Array
    moved: jax.Array


class Verdict(NamedTuple):
    """code: into ``VERDICTS``. flatness: Frye's r. kernel: ρ, the share of g that no step within reach cancels.

    distance: ‖p‖, the length of the Newton step that is left. norm: ‖H‖_F. drift: ‖H(θ + 4 p) - H(θ)‖_F, how much the
    curvatures may still change on the way to the point itself; ``norm`` where that is not finite.
    """

    code: jax.Array
    flatness: jax.Array
    kernel: jax.Array
    distance: jax.Array
    norm: jax.Array
    drift: jax.Array


def as_method(method: object) -> Method:
    """A method by name, or as it is."""
    if isinstance(method, Method):
        return method
    for maker in MAKERS:
        if method is maker:
            raise TypeError(
                f"method: expected a name or a Method, got the function that makes one: {maker.__name__}(...)"
            )
    if not isinstance(method, str):
        raise TypeError(f"method: expected a name or a Method, got {type(method).__name__}")
    if method == "eigenvector_following":
        raise ValueError(
            "method: expected critical.eigenvector_following(k), for it needs an index, got its name alone"
        )
    return METHODS[checks.one_of("method", method, METHODS)]()


def surface_of(loss: Loss, like: Params) -> Surface:
    """A loss of pytrees like ``like`` (arrays or their shapes) in flat coordinates."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    theta, unravel = ravel_pytree(zeros)

    def flat(theta: jax.Array) -> jax.Array:
        return loss(unravel(theta))

    @jax.jit  # traced once, however often a search looks
    def at(theta: jax.Array) -> Iterate:
        return Iterate(theta, *jax.value_and_grad(flat)(theta))

    @jax.jit
    def dense(theta: jax.Array) -> jax.Array:
        return hessian(loss, unravel(theta))

    def products(theta: jax.Array) -> Flat:
        if closed:  # a search takes far more products at one point than the matrix costs
            matrix = dense(theta)
            return lambda v: matrix @ v
        return jax.linearize(jax.grad(flat), theta)[1]

    closed = isinstance(loss, Composite) and loss.closed_form is not None and theta.size <= CLOSED_FORM_SIZE
    return Surface(at, products, dense)


def default_tol(dtype: jnp.dtype) -> float:
    """‖g‖ below which a point counts as critical: 1e-8 in float64, 1e-5 (‖g‖² < 1e-10) in float32."""
    return 1e-8 if dtype == jnp.float64 else 1e-5


def make_search(
    loss: Loss, init: Callable[[jax.Array], Params], method: str | Method = "newton_mr", *, tol: float | None = None
) -> Process[SearchState]:
    """A search for a critical point of ``loss`` from ``init(key)``, as ``(init, step)``.

    Records ``loss`` and ``grad_norm`` = ‖∇L‖₂; at the end also ``params`` (P,) in the order of ``jax.tree.leaves``,
    ``verdict`` (a place in ``VERDICTS``) and the other numbers of ``Verdict`` (see ``judge``). A search ends as
    converged where ‖∇L‖ <= tol, unless the next step is long, > 0.01 (1 + ‖θ‖), and they become shorter, each less than
    0.75 times the last; or where its method is stuck. ``tol`` is in units of the loss, per unit of θ: scale it with the
    loss. By default it is 1e-8 in float64 and 1e-5 in float32, whose rounding seldom allows more: use float64.

    Raises TypeError for a loss that is not one real number or parameters that are not floats, ValueError for an unknown
    method or a tol that is not positive.
    """
    if not callable(init):
        raise TypeError(f"init: expected a function of a key that returns parameters, got {type(init).__name__}")
    like = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)))
    return search_on(ground(loss, like, tol), init, as_method(method))


class Ground(NamedTuple):
    """Where searches go: the loss in flat coordinates, ‖g‖ at a critical point, and ``judge`` there, traced once."""

    surface: Surface
    tol: float | jax.Array
    judge: Callable[[Iterate, jax.Array], Verdict]


def ground(loss: Loss, like: Params, tol: float | None) -> Ground:
    """For parameters like ``like`` (arrays or their shapes); raises what ``make_search`` does."""
    _, dtype = check(loss, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like))
    tolerance = checks.positive("tol", default_tol(dtype) if tol is None else tol)
    surface = surface_of(loss, like)
    return Ground(surface, tolerance, jax.jit(lambda at, stuck: judge(surface, at, tolerance, stuck)))


def search_on(ground: Ground, init: Callable[[jax.Array], Params], chosen: Method) -> Process[SearchState]:
    """``make_search`` where the ground is known."""
    surface, tolerance, judged = ground

    def begin(key: jax.Array) -> SearchState:
        draw, noise = jax.random.split(key)
        with jax.default_matmul_precision("highest"):
            at = surface.at(ravel_pytree(init(draw))[0])
        never = jnp.full((), jnp.inf, at.loss.dtype)
        return SearchState(at, chosen.start(at), jnp.zeros((), jnp.bool_), noise, jnp.zeros((), jnp.int32), never)

    def step(state: SearchState) -> tuple[SearchState, Info]:
        with jax.default_matmul_precision("highest"):
            key = jax.random.fold_in(state.key, state.step)
            at, memory, stuck = chosen.move(surface, state.at, state.memory, key)
            grad_norm, moved = jnp.linalg.norm(state.at.grad), jnp.linalg.norm(at.theta - state.at.theta)
            arriving = (moved > NEAR * reach(state.at.theta)) & (moved <= SHORTER * state.moved)
            found = (grad_norm <= tolerance) & ~arriving & chosen.settled(state.memory)
            done = jnp.where(found | state.stuck, CONVERGED, RUNNING).astype(jnp.int32)
            seen = judged(state.at, state.stuck)
        final = {"params": state.at.theta, "verdict": seen.code, **{n: getattr(seen, n) for n in NUMBERS}}
        record = {"loss": state.at.loss, "grad_norm": grad_norm}
        return SearchState(at, memory, stuck, state.key, state.step + 1, moved), Info(done, record, final)

    return Process(begin, step)


def descends_for_ever(surface: Surface, at: Iterate, toward: jax.Array) -> jax.Array:
    """Whether a ray θ + t d is found along which the loss falls for ever, and ever more slowly.

        φ(t) = L(θ + t d),   φ'(0) < 0,   φ'(t) <= 0 at t = 2^k (1 + ‖θ‖), k = -3 .. 20,   φ' → 0

    up to √ε |φ'(0)|, and φ never rises from one such t to the next by more than the rounding of φ(-t). Nor does φ'
    vanish in one jump: beyond a kink the loss is constant, and its minimum attained. (What becomes constant smoothly is
    not told from what falls below rounding.) The direction d is ``toward``, turned by d ← d - g / ‖g‖, g = ∇L far along
    the ray, until g vanishes there. For a softmax regression g is there a sum over the examples on the wrong side, so
    this is the perceptron with all of them at once, and finds a separating d, where there is one, after finitely many
    turns (Novikoff 1962, "On convergence proofs on perceptrons"); along such a d the loss falls from every point, so no
    critical point lies at finite distance. Of other losses the ray says where the loss falls to, not that there is no
    critical point elsewhere; a way to infinity that is curved, or that rounding bars, is not found. None falls for ever
    where a penalty makes the loss grow to all sides.
    """
    dtype, small = at.loss.dtype, jnp.sqrt(jnp.finfo(at.loss.dtype).eps)
    size, slope = reach(at.theta), jnp.linalg.norm(at.grad)

    def unit(v: jax.Array) -> jax.Array:
        return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(dtype).tiny)

    def far(d: jax.Array) -> jax.Array:
        return surface.at(at.theta + 2.0**FAR * size * unit(d)).grad

    def turn(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        turns, d, grad = carry
        turned = d - unit(grad)
        return turns + 1, turned, far(turned)

    def wrong(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return (carry[0] < TURNS) & (jnp.linalg.norm(carry[2]) > small * slope)

    begin = unit(toward)
    d = unit(jax.lax.while_loop(wrong, turn, (jnp.zeros((), jnp.int32), begin, far(begin)))[1])

    def along(t: jax.Array) -> tuple[jax.Array, jax.Array]:
        there = surface.at(at.theta + t * d)
        return there.loss, jnp.vdot(there.grad, d)

    first = jnp.vdot(at.grad, d)
    places = size * 2.0 ** jnp.arange(-3, FAR + 1, dtype=dtype)
    (loss, back), (slopes, _) = (x.reshape(2, -1) for x in jax.lax.map(along, jnp.concatenate([places, -places])))

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        steep = along(middle)[1] < small * first
        return jnp.where(steep, middle, low), jnp.where(steep, high, middle)

    vanishing = along(jax.lax.fori_loop(0, HALVINGS, halve, (jnp.zeros((), dtype), places[-1]))[0])[1]
    rounding = 4 * jnp.finfo(dtype).eps * jnp.maximum(jnp.abs(at.loss), jnp.abs(back))  # of numbers of that size
    falls = jnp.all(jnp.diff(loss, prepend=at.loss[None]) <= rounding)
    falls &= (first < -small * slope) & jnp.all(slopes <= -small * first)
    return falls & (slopes[-1] >= small * first) & (vanishing >= jnp.sqrt(small) * first)


class _Newton(NamedTuple):
    """Newton steps in a row: how many, where they led, the next of them, the first.

    falls: they lower the loss and ‖g‖, and none is shorter than the last. shorter: each is. ended: the next is none.
    """

    count: jax.Array
    here: Iterate
    step: jax.Array
    first: Solution
    falls: jax.Array
    shorter: jax.Array
    ended: jax.Array


def newton_steps(surface: Surface, at: Iterate) -> _Newton:
    """The Newton step from here and those that follow, three at most."""
    most, eps = min(at.theta.size, VERDICT_PRODUCTS), jnp.finfo(at.loss.dtype).eps
    tol = min(1e-6, float(eps) ** 0.5)  # curvatures below √ε ‖H‖ count as none, as in an inertia

    def newton(n: _Newton) -> _Newton:
        new = surface.at(n.here.theta + n.step)
        length = reach(new.theta)
        solved = minres(surface.product(new.theta), -new.grad, tol=tol, max_steps=most, reach=length)
        size, nothing, begins = jnp.linalg.norm(solved.x), jnp.sqrt(eps) * length, n.count == 0
        kept = jnp.where(jnp.linalg.norm(n.first.x) <= NEAR * reach(at.theta), HARDLY_SHORTER, SHORTER)
        limit = kept * jnp.linalg.norm(n.step)  # at a degenerate point near by, x⁶, a step is 0.8 of the last
        lower = (new.loss < n.here.loss) & (jnp.linalg.norm(new.grad) < 0.75 * jnp.linalg.norm(n.here.grad))
        falls = n.falls & (size > nothing) & (begins | ((size > limit) & lower))
        shorter = n.shorter & (begins | (size <= jnp.maximum(limit, nothing)))
        first = jax.tree.map(lambda a, b: jnp.where(begins, a, b), solved, n.first)
        return _Newton(n.count + 1, new, solved.x, first, falls, shorter, ~(size > nothing))

    def going(n: _Newton) -> jax.Array:
        return (n.falls | n.shorter) & ~n.ended & (n.count <= STEPS)

    zero, yes = jnp.zeros_like(at.theta), jnp.ones((), jnp.bool_)
    none = Solution(zero, jnp.zeros_like(at.loss), zero, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(going, newton, _Newton(jnp.zeros((), jnp.int32), at, zero, none, yes, yes, ~yes))


def norms(here: Flat, beyond: Flat, like: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """‖H_i‖ of every row of H, ‖H‖_F, and ‖H' - H‖_F, ‖H‖_F where that is no number; 8 random products with each.

    here, beyond: v -> H v and v -> H' v, for vectors like ``like`` (P,).
    """
    probes = jax.random.normal(jax.random.key(0), (PROBES, like.size), like.dtype)
    images = jax.vmap(here)(probes)
    change = jax.vmap(beyond)(probes) - images
    rows = jnp.sqrt(jnp.mean(jnp.square(images), axis=0))
    norm, drift = jnp.linalg.norm(rows), jnp.sqrt(jnp.mean(jnp.sum(jnp.square(change), axis=1)))
    return rows, norm, jnp.where(jnp.isfinite(drift), drift, norm)


def judge(surface: Surface, at: Iterate, tol: float | jax.Array, stuck: jax.Array) -> Verdict:
    """What kind of point a search has come to. With the minimum-residual Newton step p of the Hessian H,

        r = ‖H p + g‖ / (‖H‖_F ‖p‖ + ‖g‖),      Frobenius norms from 8 random products each

    and ρ = ‖H p + g‖ / ‖g‖ for the longest such p within 1 + ‖θ‖, in this order:

    failed: the loss or ‖g‖ is not finite.
    critical: the critical point is near, ‖p‖ <= 0.01 (1 + ‖θ‖), and ‖g‖ <= tol, r <= 0.9, ρ <= 0.9, and the three steps
    that follow p become shorter, each at most 0.95 times the last, whether the loss falls or rises. Where g is mere
    rounding, |g_i| <= 4 ε ‖H_i‖ max(‖θ‖, 1) for every row of H, those steps are not asked for, and either ‖g‖ <= tol or
    r, ρ <= 0.9 is enough.
    diverging_to_infinity: a ray is found along which the loss falls for ever (``descends_for_ever``), and three Newton
    steps in a row lower both the loss and ‖g‖ and do not become shorter, or the end is gradient-flat, or ‖g‖ <= tol: on
    separable data the gradient vanishes only at infinity.
    gradient_flat: g lies in the kernel of H, r > 0.9 (Frye et al. 2021, "Critical point-finding methods reveal
    gradient-flat regions of deep network losses"), or nearly, ρ > 0.9: what would cancel it is farther away than θ is
    long. Curvatures below √ε ‖H‖ count as none.
    failed: none of these, and stuck; max_steps: none of these, the search could have gone on, with more steps or, where
    it stopped because ‖g‖ <= tol far from such a point, with a smaller tol.

    Where Newton's steps only shrink by a constant factor (a degenerate point, H singular there) 4 p reaches beyond the
    point, so that eigenvalues of H that vanish there are at most 2 ``drift`` here.

    Where the loss is not twice differentiable (ReLU) H is that of the smooth piece around θ. A minimum at a kink has no
    zero gradient near it and ends as gradient_flat or failed, but for a search that lands on the kink itself, where
    automatic differentiation makes up a derivative.
    """
    steps = newton_steps(surface, at)
    first, falls = steps.first, steps.falls
    p, tiny = first.x, jnp.finfo(at.loss.dtype).tiny
    apply = surface.product(at.theta)
    rows, norm, drift = norms(apply, surface.product(at.theta + 4 * p), p)
    slope, size, length = jnp.linalg.norm(at.grad), jnp.linalg.norm(at.theta), jnp.linalg.norm(p)
    flatness = first.residual / jnp.maximum(norm * length + slope, tiny)
    left = at.grad + apply(first.within)
    kernel = jnp.linalg.norm(left) / jnp.maximum(slope, tiny)
    small, near, flat = slope <= tol, length <= NEAR * reach(at.theta), (flatness > FLAT) | (kernel > FLAT)
    flat |= (slope == 0) & jnp.any(at.grad != 0)  # ‖g‖² underflows
    rounding = jnp.isfinite(norm) & jnp.all(
        jnp.abs(at.grad) <= ROUNDING * jnp.finfo(at.loss.dtype).eps * rows * jnp.maximum(size, 1)
    )
    critical = near & jnp.where(rounding, small | ~flat, small & ~flat & steps.shorter)
    # three steps on, what of p pointed elsewhere is gone
    begin, toward = jax.tree.map(lambda a, b: jnp.where(falls, a, b), (steps.here, steps.step), (at, p))
    endless = jax.lax.cond(
        ~critical & (falls | flat | small),
        lambda: descends_for_ever(surface, begin, toward),
        lambda: jnp.zeros_like(falls),
    )
    broken = ~(jnp.isfinite(at.loss) & jnp.isfinite(slope))
    ends = [FAILED, CRITICAL, DIVERGING_TO_INFINITY, GRADIENT_FLAT]
    code = jnp.select([broken, critical, endless, flat], ends, jnp.where(stuck, FAILED, MAX_STEPS))
    return Verdict(code.astype(jnp.int32), flatness, kernel, length, norm, drift)
