"""Methods that search for points of zero gradient, each as one step in flat coordinates θ (P,).

Notation: g = ∇L(θ), H = ∇²L(θ) = V Λ Vᵀ with ascending Λ, p the step. A method says how a step is made and judged; the
loop, the records, the end and the verdict are ``search``'s, the same for all.

    newton_mr              p = argmin ‖H p + g‖ by MINRES, products alone; α by backtracking on ‖g‖²
    newton_cg              p ≈ -H⁻¹ g by conjugate gradients, products alone; α by backtracking on L: seeks minima
    gradient_norm          p = -H g, the downhill direction of ½‖g‖², products alone
    newton                 p = -H⁺ g, the dense pseudo-inverse; α by backtracking on ‖g‖²
    trust_region           p = argmin ‖H p + g‖ over ‖p‖ <= Δ
    eigenvector_following  uphill along the k lowest modes, downhill along all others, ‖p‖ <= Δ: seeks index k
    saddle_free            the same with k = 0: p = -(|H| + μ)⁻¹ g, seeks minima
    perturbed_gd           gradient descent that steps aside where the gradient is small, and stays where that is no use
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsoft import checks
from jaxsoft.critical.minres import conjugate_gradients, minres
from jaxsoft.curvature.products import Flat

DECREASE = 1e-4  # the share of the predicted decrease that a backtracked step must bring (Armijo)
HALVINGS = 50
FIRST_STEP = 1e-2  # α of the methods without a model, doubled from step to step; a long one would leave the basin
CUT = 1e-9  # modes with |λ| <= CUT max |λ| count as flat: dense steps do not move along them
BISECTIONS = 60
FRUITLESS = 20  # steps uphill without a new least ‖g‖


class Iterate(NamedTuple):
    """A point, its loss and its gradient: θ (P,), (), (P,)."""

    theta: jax.Array
    loss: jax.Array
    grad: jax.Array


class Surface(NamedTuple):
    """A loss in flat coordinates. at: θ -> Iterate. product: θ -> (v -> H v). hessian: θ -> (P, P).

    precondition: v -> M⁻¹ v, M near the Hessian wherever the search now is; None where there is none.
    """

    at: Callable[[jax.Array], Iterate]
    product: Callable[[jax.Array], Flat]
    hessian: Callable[[jax.Array], jax.Array]
    precondition: Flat | None = None


Memory = Any
Moved = tuple[Iterate, Memory, jax.Array]
Trial = tuple[jax.Array, Iterate, jax.Array, jax.Array]


def _always(memory: Memory) -> jax.Array:
    return jnp.ones((), jnp.bool_)


class Method(NamedTuple):
    """One way to search.

    start: iterate -> what the method remembers.
    move: (surface, iterate, memory, key) -> (next iterate, memory, stuck): stuck where no step is good enough.
    settled: memory -> whether a small gradient may end the search now.
    segment: steps between two looks at the clock, None to leave it to the engine.
    preconditioned: whether it makes use of ``Surface.precondition``.
    """

    start: Callable[[Iterate], Memory]
    move: Callable[[Surface, Iterate, Memory, jax.Array], Moved]
    settled: Callable[[Memory], jax.Array] = _always
    segment: int | None = None
    preconditioned: bool = False


def _nothing(at: Iterate) -> tuple[()]:
    return ()


def _half_square(at: Iterate) -> jax.Array:
    return 0.5 * jnp.vdot(at.grad, at.grad)


def _loss(at: Iterate) -> jax.Array:
    return at.loss


def _backtrack(
    surface: Surface,
    at: Iterate,
    direction: jax.Array,
    merit: Callable[[Iterate], jax.Array],
    slope: jax.Array,
    longest: float | jax.Array = 1.0,
) -> tuple[Iterate, jax.Array, jax.Array]:
    """The first of θ + α p, α = ``longest``, half of it, ..., with merit <= merit(θ) + 10⁻⁴ α slope: it, α, found.

    Where the predicted decrease is less than the merit's rounding, one of ‖g‖ will do (Hager & Zhang 2005).
    """
    begin = merit(at)
    slope = jnp.minimum(slope, 0)
    rounding = 4 * jnp.finfo(begin.dtype).eps * jnp.abs(begin)

    def shorter(carry: Trial) -> Trial:
        alpha, _, _, tries = carry
        alpha = alpha / 2
        new = surface.at(at.theta + alpha * direction)
        value = merit(new)
        lower = (value <= begin + DECREASE * alpha * slope) & (value < begin)
        hidden = (-alpha * slope <= rounding) & (value <= begin + rounding) & (_half_square(new) < _half_square(at))
        return alpha, new, (lower | hidden) & jnp.all(jnp.isfinite(new.grad)), tries + 1

    def going(carry: Trial) -> jax.Array:
        return ~carry[2] & (carry[3] < HALVINGS)

    first = (2 * jnp.asarray(longest, at.loss.dtype), at, jnp.zeros((), jnp.bool_), jnp.zeros((), jnp.int32))
    alpha, new, good, _ = jax.lax.while_loop(going, shorter, first)
    return _choose(good, new, at), alpha, good


def _choose(condition: jax.Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)


def newton_mr(*, tol: float = 1e-3, max_products: int | None = None) -> Method:
    """Newton's method with minimum-residual steps: finds critical points of any index, from products alone.

    p = argmin ‖H p + g‖ by MINRES to the relative residual ``tol`` (at most ``max_products`` products, by default
    min(P, 500)) or as far as ‖p‖ <= 1 + ‖θ‖, then θ ← θ + α p with ‖g(θ + α p)‖² <= ‖g‖² + 2·10⁻⁴ α pᵀ H g. Where g
    lies in the kernel of H it gets stuck: a gradient-flat point. Roosta, Liu, Xu & Mahoney (2022), "Newton-MR: inexact
    Newton method with minimum residual sub-problem solver".
    """
    checks.positive("tol", tol)
    if max_products is not None:
        checks.count("max_products", max_products)

    def move(surface: Surface, at: Iterate, memory: Memory, key: jax.Array) -> Moved:
        apply = surface.product(at.theta)
        most = min(at.theta.size, 500) if max_products is None else max_products
        p = minres(apply, -at.grad, tol=tol, max_steps=most, reach=reach(at.theta), go_beyond=False).within
        new, _, good = _backtrack(surface, at, p, _half_square, jnp.vdot(at.grad, apply(p)))
        return new, memory, ~good

    return Method(_nothing, move, segment=5)


def newton_cg(*, tol: float = 1e-2, max_products: int | None = None) -> Method:
    """Newton's method with conjugate gradients: seeks minima, from products alone.

    p ≈ -H⁻¹ g to the relative residual ``tol`` (at most ``max_products`` products, by default min(2 P, 500)) or up to
    the first direction of negative curvature; θ ← θ + α p with α backtracked on the loss. Steihaug (1983), "The
    conjugate gradient method and trust regions in large scale optimization"; Dembo & Steihaug (1983), "Truncated-Newton
    algorithms for large-scale unconstrained optimization".
    """
    checks.positive("tol", tol)
    if max_products is not None:
        checks.count("max_products", max_products)

    def move(surface: Surface, at: Iterate, memory: Memory, key: jax.Array) -> Moved:
        most = min(2 * at.theta.size, 500) if max_products is None else max_products
        p = conjugate_gradients(
            surface.product(at.theta), -at.grad, tol=tol, max_steps=most, precondition=surface.precondition
        )
        new, _, good = _backtrack(surface, at, p, _loss, jnp.vdot(at.grad, p))
        return new, memory, ~good

    return Method(_nothing, move, segment=5, preconditioned=True)


def gradient_norm() -> Method:
    """Gradient descent on ½‖g‖², θ ← θ - α H g: finds points of any index, slowly, and stops at gradient-flat ones.

    α is twice the last one, backtracked. McIver & Komornicki (1972), "Structure of transition states in organic
    reactions"; its weakness: Doye & Wales (2002), "Saddle points and dynamics of Lennard-Jones clusters, solids and
    supercooled liquids".
    """

    def move(surface: Surface, at: Iterate, memory: Memory, key: jax.Array) -> Moved:
        slope = surface.product(at.theta)(at.grad)
        new, alpha, good = _backtrack(surface, at, -slope, _half_square, -jnp.vdot(slope, slope), 2 * memory)
        return new, jnp.where(good, alpha, memory), ~good

    return Method(lambda at: jnp.full((), FIRST_STEP, at.loss.dtype), move)


def newton() -> Method:
    """Damped Newton with the pseudo-inverse, p = -H⁺ g, for small nets: finds critical points of any index.

    Modes enter in the order of falling |λ| as long as ‖p‖ <= 1 + ‖θ‖, for a longer step is no prediction; those with
    |λ| <= 10⁻⁹ max |λ| never (exact symmetries). α backtracks on ‖g‖².
    """

    def move(surface: Surface, at: Iterate, memory: Memory, key: jax.Array) -> Moved:
        values, vectors = jnp.linalg.eigh(surface.hessian(at.theta))
        steep, along = _modes(values, vectors, at.grad)
        order = jnp.argsort(-jnp.abs(values))
        values, along, steep, vectors = values[order], along[order], steep[order], vectors[:, order]
        modes = jnp.where(steep, -along / jnp.where(steep, values, 1), 0)
        left = jnp.square(reach(at.theta)) - (jnp.cumsum(jnp.square(modes)) - jnp.square(modes))
        share = jnp.sqrt(jnp.clip(left / jnp.where(modes == 0, 1, jnp.square(modes)), 0, 1))
        slope = -jnp.sum(jnp.where(steep, share * jnp.square(along), 0))
        new, _, good = _backtrack(surface, at, vectors @ (share * modes), _half_square, slope)
        return new, memory, ~good

    return Method(_nothing, move, segment=5)


def reach(theta: jax.Array) -> jax.Array:
    """1 + ‖θ‖: a Newton step longer than that is no prediction."""
    return 1 + jnp.linalg.norm(theta)


def _modes(values: jax.Array, vectors: jax.Array, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which modes are not flat, and the gradient along all."""
    return jnp.abs(values) > CUT * jnp.max(jnp.abs(values)), vectors.T @ grad


def _within(radius: jax.Array, force: jax.Array, stiffness: jax.Array) -> jax.Array:
    """force_i / (stiffness_i + μ) with the least μ >= 0 for which its length is at most the radius."""

    def step(mu: jax.Array) -> jax.Array:
        bottom = stiffness + mu
        return jnp.where(bottom > 0, force / jnp.where(bottom > 0, bottom, 1), 0)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        fits = jnp.linalg.norm(step(middle)) <= radius
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

    zero = jnp.zeros_like(radius)
    high = jnp.linalg.norm(force) / radius
    high = jax.lax.fori_loop(0, BISECTIONS, halve, (zero, high))[1]
    free = step(zero)
    return jnp.where(jnp.linalg.norm(free) <= radius, free, step(high))


def trust_region(*, radius: float = 1.0) -> Method:
    """Newton in a trust region of the gradient's model: p = argmin ‖H p + g‖ over ‖p‖ <= Δ, any index.

    p = -(H² + μ)⁻¹ H g (Levenberg 1944; Marquardt 1963). Taken where ‖g‖² falls by at least 10⁻⁴ of what the model
    predicts; Δ, ``radius`` at first, doubles after good predictions at its edge and shrinks to a quarter after poor
    ones. Nocedal & Wright (2006), "Numerical optimization", algorithm 11.5.
    """
    checks.positive("radius", radius)

    def move(surface: Surface, at: Iterate, memory: Memory, key: jax.Array) -> Moved:
        values, vectors = jnp.linalg.eigh(surface.hessian(at.theta))
        steep, along = _modes(values, vectors, at.grad)
        values = jnp.where(steep, values, 0)
        modes = _within(memory, -values * along, values**2)
        new = surface.at(at.theta + vectors @ modes)
        predicted = jnp.sum(along**2) - jnp.sum(jnp.square(along + values * modes))
        gain = (jnp.vdot(at.grad, at.grad) - jnp.vdot(new.grad, new.grad)) / jnp.where(predicted > 0, predicted, 1)
        good = (predicted > 0) & (gain > DECREASE)
        length = jnp.linalg.norm(modes)
        grown = jnp.where((gain > 0.75) & (length > 0.9 * memory), 2 * memory, memory)
        following = jnp.where(good & (gain >= 0.25), grown, jnp.minimum(length, memory) / 4)
        return _choose(good, new, at), following, _collapsed(following, at) | (predicted <= 0)

    return Method(lambda at: jnp.asarray(radius, at.loss.dtype), move, segment=5)


def _collapsed(radius: jax.Array, at: Iterate) -> jax.Array:
    """Whether no step of this length can be told from none."""
    return radius < jnp.finfo(radius.dtype).eps * (1 + jnp.linalg.norm(at.theta))


class _Followed(NamedTuple):
    """radius: Δ. directions: (P, k), the modes that went uphill at the last step; None where the lowest do.

    size, loss: 1 + ‖θ‖ and L(θ) at the start. least, since: the least ‖g‖ so far, and how many steps ago that was.
    """

    radius: jax.Array
    directions: jax.Array | None
    size: jax.Array
    loss: jax.Array
    least: jax.Array
    since: jax.Array


def _tracked(
    vectors: jax.Array, directions: jax.Array | None, index: int | jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """Which ``index`` modes go uphill, the lowest or those most like the directions (P, k), and these as directions."""
    uphill = jnp.arange(len(vectors)) < index
    if directions is None:
        return uphill, None
    order, kept = jnp.argsort(-jnp.sum(jnp.square(vectors.T @ directions), axis=1)), directions.shape[1]
    followed = jnp.where(jnp.arange(kept)[None] < index, vectors[:, order[:kept]], 0)
    return jnp.zeros(len(vectors), jnp.bool_).at[order].set(uphill), followed


def eigenvector_following(
    index: int | jax.Array, *, directions: jax.Array | None = None, radius: float = 0.1, farthest: float = 100.0
) -> Method:
    """Seeks a critical point of this ``index``: uphill along so many modes, downhill along all others.

        p = -Σ_i s_i v_iᵀ g / (|λ_i| + μ) v_i,      s_i = -1 for the modes followed uphill, +1 for the others

    with the least μ >= 0 for which ‖p‖ <= Δ. Followed are the ``index`` lowest modes; with ``directions`` (P, k), k >=
    index, those most like them, and from then on those most like the ones of the step before. There is nothing that
    falls on the way to a saddle, so a step is taken where the quadratic model foretells the gradient,
    ‖g(θ + p) - g - H p‖ < ‖g‖; Δ, ``radius`` at first, doubles where the error is below a tenth and halves above a
    half. Uphill may lead on without end: where the loss is above that of the start and ‖θ‖ > ``farthest`` (1 + ‖θ₀‖),
    or a tenth of that and the last 20 steps brought no ‖g‖ below all before, the search gives up, as stuck. ``index``
    may be traced: an axis of a sweep; one that is negative or larger than P, or than k, is stuck from the start. Raises
    ValueError for such an index that is no traced one, and for directions of another shape. Cerjan & Miller (1981), "On
    finding transition states"; Banerjee, Adams, Simons & Shepard (1985), "Search for stationary points on surfaces",
    whose two shifts of P-RFO the trust region replaces; Wales (1994), "Rearrangements of 55-atom Lennard-Jones and
    (C60)55 clusters", for any index.
    """
    if not checks.traced(index):
        plain = index.item() if isinstance(index, jax.Array) and index.ndim == 0 else index
        index = checks.count("index", plain, at_least=0)
    if directions is not None:
        directions = jnp.asarray(directions)
    checks.positive("radius", radius)
    checks.positive("farthest", farthest)

    def start(at: Iterate) -> _Followed:
        never, now = jnp.full((), jnp.inf, at.loss.dtype), jnp.zeros((), jnp.int32)
        followed = None if directions is None else directions.astype(at.theta.dtype)
        return _Followed(jnp.asarray(radius, at.loss.dtype), followed, reach(at.theta), at.loss, never, now)

    def move(surface: Surface, at: Iterate, memory: _Followed, key: jax.Array) -> Moved:
        size, delta = at.theta.size, memory.radius
        if directions is not None and (directions.ndim != 2 or len(directions) != size):
            raise ValueError(f"directions: expected shape ({size}, k), got {directions.shape}")
        most, of = (size, "parameters") if directions is None else (directions.shape[1], "directions")
        if not checks.traced(index) and index > most:
            raise ValueError(f"index: expected at most {most}, the number of {of}, got {index}")
        values, vectors = jnp.linalg.eigh(surface.hessian(at.theta))
        uphill, followed = _tracked(vectors, memory.directions, index)
        steep, along = _modes(values, vectors, at.grad)
        force = jnp.where(uphill, along, -along)
        modes = _within(delta, jnp.where(steep, force, 0), jnp.abs(values))
        new = surface.at(at.theta + vectors @ modes)
        foretold = at.grad + vectors @ (values * modes)
        slope, known = jnp.linalg.norm(at.grad), jnp.asarray((index >= 0) & (index <= most))
        error = jnp.linalg.norm(new.grad - foretold) / slope
        good = (error < 1) & known  # not where it is NaN
        length = jnp.linalg.norm(modes)
        grown = jnp.where((error < 0.1) & (length > 0.9 * delta), 2 * delta, delta)
        delta = jnp.where(error <= 0.5, grown, jnp.minimum(length, delta) / 2)
        since = jnp.where(slope < memory.least, 0, memory.since + 1)
        limit = jnp.where(since < FRUITLESS, farthest, farthest / 10) * memory.size
        lost = (at.loss > memory.loss) & (jnp.linalg.norm(at.theta) > limit)
        stuck = ~known | lost | _collapsed(delta, at) | (length == 0)
        least = jnp.minimum(slope, memory.least)
        return _choose(good, new, at), _Followed(delta, followed, memory.size, memory.loss, least, since), stuck

    return Method(start, move, segment=5)


def saddle_free(*, radius: float = 0.1) -> Method:
    """Saddle-free Newton, p = -(|H| + μ)⁻¹ g in a trust region: leaves every saddle but one it starts on, for minima.

    ``eigenvector_following`` with index 0. Dauphin et al. (2014), "Identifying and attacking the saddle point problem
    in high-dimensional non-convex optimization".
    """
    return eigenvector_following(0, radius=radius)


class _Perturbed(NamedTuple):
    """alpha: the last step size. since: steps since the perturbation. before: where it was. trusted: it was no use."""

    alpha: jax.Array
    since: jax.Array
    before: Iterate
    trusted: jax.Array


def perturbed_gd(
    *, threshold: float = 1e-4, radius: float = 1e-2, patience: int = 100, decrease: float = 1e-6
) -> Method:
    """Gradient descent that does not stay at strict saddles: where ‖g‖ <= ``threshold`` it steps aside at random.

    The step aside is uniform in a ball of ``radius``. Where the loss has not fallen by ``decrease`` after ``patience``
    steps the point before was no saddle with a way down that matters: the search goes back and descends undisturbed. α
    by backtracking. Jin, Ge, Netrapalli, Kakade & Jordan (2017), "How to escape saddle points efficiently".
    """
    for name, value in (("threshold", threshold), ("radius", radius), ("decrease", decrease)):
        checks.positive(name, value)
    checks.count("patience", patience)

    def start(at: Iterate) -> _Perturbed:
        return _Perturbed(jnp.full((), FIRST_STEP, at.loss.dtype), jnp.asarray(patience), at, jnp.zeros((), jnp.bool_))

    def move(surface: Surface, at: Iterate, memory: _Perturbed, key: jax.Array) -> Moved:
        slow = jnp.linalg.norm(at.grad) <= threshold
        watched = memory.since < patience  # a perturbation is being tried
        late = watched & (memory.since + 1 == patience)
        useless = late & (at.loss > memory.before.loss - decrease)
        aside = slow & ~watched & ~memory.trusted
        direction, length = jax.random.split(key)
        ball = jax.random.normal(direction, at.theta.shape, at.theta.dtype)
        share = jax.random.uniform(length, (), at.theta.dtype) ** (1 / at.theta.size)
        ball = ball * radius * share / jnp.linalg.norm(ball)
        here = _choose(useless, memory.before, at)
        target = jnp.where(aside, at.theta + ball, here.theta)
        moved = surface.at(target)
        begin = _choose(aside, moved, here)
        down = -begin.grad
        new, alpha, good = _backtrack(surface, begin, down, _loss, -jnp.vdot(down, down), 2 * memory.alpha)
        following = _Perturbed(
            jnp.where(good, alpha, memory.alpha),
            jnp.where(aside, 0, jnp.minimum(memory.since + 1, patience)),
            _choose(aside, at, memory.before),
            memory.trusted | useless,
        )
        return new, following, ~good & memory.trusted

    def settled(memory: _Perturbed) -> jax.Array:
        return memory.trusted

    return Method(start, move, settled)


METHODS: dict[str, Callable[[], Method]] = {
    "newton_mr": newton_mr,
    "newton_cg": newton_cg,
    "gradient_norm": gradient_norm,
    "newton": newton,
    "trust_region": trust_region,
    "saddle_free": saddle_free,
    "perturbed_gd": perturbed_gd,
}
