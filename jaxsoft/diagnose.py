"""What is wrong with a run that does not move: which point this is, why, how long it lasts, and what would help.

    print(diagnose(problem.loss, params, optax.sgd(0.1)))

It needs a loss and a state alone. Of a cost of logits (``Composite``, every ``problem.classification``) it also reads
what the model answers: labels follow from the gradient in the logits, as that is (ŷ - y)/n.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxsoft import checks
from jaxsoft.checkpoint import paths
from jaxsoft.critical import CriticalPoint, find
from jaxsoft.critical.methods import newton_mr
from jaxsoft.curvature import Composite, Inertia, inertia
from jaxsoft.curvature.products import Loss, Params, check
from jaxsoft.plateau.quadratic import Forecast, apart, forecast
from jaxsoft.trial import Choice, tried

Made = TypeVar("Made")

SMALL_GAIN = 0.1  # of Glorot's deviation: a signal loses nine tenths in every layer
ALIKE = 0.05  # answers are one answer if each is within this total variation, Σ |p - q| / 2, of their mean
OFF = 0.02  # the total variation between mean answer and class shares above which these are not learned
SURE = 0.99  # the probability from which on a softmax is saturated
WRONG = 0.05  # the share of examples that are answered surely and wrongly
UNKNOWN_RATE = 0.1  # where no curvature is known
SEPARABLE = "separable tail"
LINEAR = 3e-3  # of a search's Newton steps: 1e-3 takes up to three times as long, with 1e-2 float32 may not arrive
AT_THE_SADDLE = 1e-2  # relative distance of the loss from that of constant answers
SHARES = (1.0, 0.3, 0.1, 0.03)  # of 1/λ_max, which is that of this state: the way down may be steeper
RATES = {"adam": (1e-2, 1e-3), "rmsprop": (1e-2, 1e-3), "lion": (1e-2, 1e-3), "muon": (2e-2,)}
SCALED = ("nesterov", "momentum", "gd")  # their learning rates are those shares


class Answers(NamedTuple):
    """What a classifier says of its n examples: probabilities and labels, both (n, C)."""

    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """Of the classes among the labels."""
        return self.labels.mean(axis=0)

    @property
    def spread(self) -> float:
        """The largest total variation between an answer and the mean answer."""
        return float(_variation(self.probabilities, self.probabilities.mean(axis=0)).max())

    @property
    def prior_loss(self) -> float:
        """The least loss of a constant answer: the entropy of the class shares, ln C where they are equal."""
        shares = self.shares[self.shares > 0]
        return float(-np.sum(shares * np.log(shares)))

    @property
    def right(self) -> np.ndarray:
        """Whether the largest output is the label's."""
        return self.probabilities.argmax(axis=1) == self.labels.argmax(axis=1)


class Cause(NamedTuple):
    """A reason why the loss stands: what it is called, what was seen, and what helps."""

    name: str
    evidence: str
    remedy: str


class Diagnosis(NamedTuple):
    """forecast: with the optimizer at hand. certificate: of the Hessian here. behind: the critical point that a search
    from here ends at, and ``distance`` to it. place: what point that is, in words. causes: found. choices: optimizers
    and learning rates that were run from here and got below the level in fewer steps than are forecast, the quickest
    first. tried: how many were run; 0 on a separable tail, where a drop is nothing to wait for."""

    forecast: Forecast
    certificate: Inertia
    behind: CriticalPoint
    distance: float
    place: str
    causes: tuple[Cause, ...]
    choices: tuple[Choice, ...]
    tried: int

    def __str__(self) -> str:
        lines = [
            f"here      {self.forecast}",
            f"          {self.certificate}",
            f"behind    {self.place}",
            f"          {self.behind}; distance {self.distance:.3g}",
        ]
        for cause in self.causes or (Cause("no known cause", "nothing in the weights or the answers stands out", ""),):
            lines.append(f"why       {cause.name}: {cause.evidence}")
            lines += [f"          -> {cause.remedy}"] if cause.remedy else []
        level = apart(self.forecast.loss, self.forecast.level)[1]
        best = {choice.name: choice for choice in reversed(self.choices)}  # the quickest of each optimizer
        for i, choice in enumerate(sorted(best.values(), key=self.choices.index)):
            took = f"{choice.steps:,} steps, tried; loss {choice.loss:.4g} later"
            lines.append(f"{'' if i else 'faster':<10}{choice.name} at {choice.learning_rate:.2g}: {took}")
        if self.tried and not self.choices:
            lines.append(f"faster    none of {self.tried} settings that were tried got below {level} and stayed down")
        return "\n".join(lines)


def diagnose(
    loss: Loss,
    params: Params,
    optimizer: optax.GradientTransformation | None = None,
    opt_state: optax.OptState | None = None,
    *,
    delta: float = 0.1,
    reference: float = 0.0,
    max_search: int = 200,
) -> Diagnosis:
    """Which point a run stands near, with a certificate; why; how long it will stay there; and what would be quicker.

    Args:
        loss: ``loss(params) -> scalar``, of the full batch.
        params: where the run stands.
        optimizer: optax transform that drives it; by default gradient descent with the learning rate 1/λ_max.
        opt_state: its state now; by default a fresh one.
        delta: δ, the drop of ln(L - L_ref) that is waited for.
        reference: L_ref, what the loss would end at: a number below it, for a loss that can be negative.
        max_search: the most steps of the search for the critical point.

    Raises TypeError and ValueError as ``forecast`` and ``inertia`` do.
    """
    check(loss, params)
    checks.count("max_search", max_search)
    chosen = optax.sgd(UNKNOWN_RATE) if optimizer is None else optimizer
    ahead = functools.partial(forecast, loss, params, delta=delta, reference=reference)
    found = ahead(chosen, opt_state)
    natural = 1 / found.sharpness if found.sharpness > 0 else UNKNOWN_RATE
    if optimizer is None:
        found = ahead(optax.sgd(natural))
    with ThreadPoolExecutor(1) as beside:  # half of the time is the compiler's, which takes one core
        search = beside.submit(_as_here(find), loss, params, newton_mr(tol=LINEAR), max_steps=max_search)
        why = tuple(causes(loss, params, answers_of(loss, params), found))
        rates = RATES | {name: tuple(share * natural for share in SHARES) for name in SCALED}
        if any(cause.name == SEPARABLE for cause in why):
            rates = {}
        choices = tuple(tried(loss, params, rates, found.level, found.steps))
        certificate = inertia(loss, params)
        behind = search.result()
    theta, end = ravel_pytree(params)[0], ravel_pytree(behind.params)[0]
    return Diagnosis(
        forecast=found,
        certificate=certificate,
        behind=behind,
        distance=float(jnp.linalg.norm(end - theta)),
        place=place(behind, answers_of(loss, behind.params)),
        causes=why,
        choices=choices,
        tried=sum(map(len, rates.values())),
    )


def _as_here(function: Callable[..., Made]) -> Callable[..., Made]:
    """The function under this thread's settings of jax, for a thread that does not share them."""
    double = jnp.result_type(float) == jnp.float64
    device = jax.config.jax_default_device  # pyrefly: ignore

    def under(*args: Any, **options: Any) -> Made:
        with jax.enable_x64(double), jax.default_device(device):
            return function(*args, **options)

    return under


def answers_of(loss: Loss, params: Params) -> Answers | None:
    """What the model answers, and the labels: y = ŷ - n ∂L/∂z. None unless the loss is the mean cross-entropy of logits
    (n, C)."""
    if not isinstance(loss, Composite):
        return None
    if jax.eval_shape(loss.outputs, params).ndim != 2:
        return None
    probabilities, slopes = (np.asarray(x, np.float64) for x in _answers(loss, params))
    labels = probabilities - len(slopes) * slopes
    if not np.allclose(labels.sum(axis=1), 1, atol=1e-3) or labels.min() < -1e-3:
        return None
    return Answers(probabilities, np.clip(labels, 0, 1))


@functools.partial(jax.jit, static_argnums=0)
def _answers(loss: Composite, params: Params) -> tuple[jax.Array, jax.Array]:
    """Probabilities, and the gradient in the logits: both (n, C)."""
    logits = loss.outputs(params)
    return jax.nn.softmax(logits), jax.grad(loss.cost)(logits)


def _variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.abs(p - q).sum(axis=-1) / 2


def place(point: CriticalPoint, answers: Answers | None) -> str:
    """The critical point in words."""
    status = str(point.status)
    if status != "critical" or point.inertia is None:
        return {
            "diverging_to_infinity": "no critical point: the loss falls for ever, the parameters run to infinity",
            "gradient_flat": "no critical point, but a gradient-flat region",
        }.get(status, f"no critical point was found near ({status})")
    index, loss = int(point.inertia.negative), float(point.loss)
    sure = point.inertia.method != "lanczos" and int(point.inertia.zero) + int(point.inertia.undecided) == 0
    kind = ("a minimum" if sure else "a degenerate point") if index == 0 else f"a saddle of index {index}"
    if (
        index > 0
        and answers is not None
        and answers.spread <= ALIKE
        and abs(loss - answers.prior_loss) <= AT_THE_SADDLE * loss
    ):
        classes = answers.labels.shape[1]
        level = (
            f"ln {classes}" if math.isclose(answers.prior_loss, math.log(classes), rel_tol=1e-3) else "the class shares"
        )
        return f"the symmetric saddle at {level}, index {index}: the same answer for every example"
    return f"{kind} at loss {loss:.4g}"


Symptom = Callable[[Loss, Params, Answers | None, Forecast], Cause | None]


def causes(loss: Loss, params: Params, answers: Answers | None, found: Forecast) -> Iterator[Cause]:
    """All that is found, the most telling first."""
    for symptom in (prior_not_learned, init_too_small, dead_units, saturated_softmax, separable_tail):
        cause = symptom(loss, params, answers, found)
        if cause is not None:
            yield cause


def prior_not_learned(loss: Loss, params: Params, answers: Answers | None, found: Forecast) -> Cause | None:
    """The mean answer is not the classes' shares: the loss is still above that of the best constant answer."""
    if answers is None or answers.spread > ALIKE:
        return None
    off = float(_variation(answers.probabilities.mean(axis=0), answers.shares))
    if off <= OFF:
        return None
    return Cause(
        "class prior not learned",
        f"the same answer for every example, {off:.2f} off the class shares in total variation "
        f"(loss {found.loss:.4g}, {answers.prior_loss:.4g} with the shares)",
        "start the output biases at the logarithms of the class shares",
    )


def init_too_small(loss: Loss, params: Params, answers: Answers | None, found: Forecast) -> Cause | None:
    """Weights far below Glorot's deviation √(2/(fan_in + fan_out)), while all examples still get one answer."""
    if answers is not None and answers.spread > ALIKE:
        return None
    gains = {name: gain for name, gain in weight_gains(params).items() if gain < SMALL_GAIN}
    if len(gains) < 2:
        return None
    name, least = min(gains.items(), key=lambda item: item[1])
    return Cause(
        "init too small",
        f"{len(gains)} layers have less than a tenth of Glorot's spread, {name} {least:.1g} of it",
        "draw the weights with Glorot's or He's deviation",
    )


def weight_gains(params: Params) -> dict[str, float]:
    """For every leaf with two dimensions or more its root mean square over √(2/(fan_in + fan_out)), by its path.

    Matrices are (in, out) or (out, in); kernels have their channels first or last, see ``_channels``.
    """
    gains = {}
    for name, leaf in paths(params).items():
        if jnp.ndim(leaf) >= 2:
            channels = _channels(leaf.shape)
            receptive = leaf.size / math.prod(channels)
            rms = float(jnp.sqrt(jnp.mean(jnp.square(leaf))))
            gains[name] = rms * math.sqrt(receptive * sum(channels) / 2)
    return gains


def _channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The two dimensions of a kernel that are not its window: the window is taken to be square, and smaller."""
    first, last = shape[:2], shape[-2:]
    if len(shape) == 3 or (first[0] == first[1] and last[0] != last[1]):
        return last
    return last if first[0] == first[1] and math.prod(last) > math.prod(first) else first


def dead_units(loss: Loss, params: Params, answers: Answers | None, found: Forecast) -> Cause | None:
    """Units that no gradient reaches, neither their bias nor their weights in, while others of the layer have one."""
    value, slopes = jax.value_and_grad(loss)(params)
    grads = {name: np.asarray(leaf) for name, leaf in paths(slopes).items()}
    dead = {}
    for name, bias in grads.items():
        layer = name.rpartition("/")[0]
        weights = [g for n, g in grads.items() if n.rpartition("/")[0] == layer and n != name and bias.size in g.shape]
        alive = np.abs(bias) > 100 * np.finfo(bias.dtype).eps * abs(float(value))
        if bias.ndim == 1 and weights and alive.any():
            unit = weights[0].shape.index(bias.size)
            reached = np.any(np.moveaxis(weights[0], unit, 0).reshape(bias.size, -1) != 0, axis=1)
            if count := int(np.sum((bias == 0) & ~reached)):
                dead[name] = (count, bias.size)
    if not dead:
        return None
    seen = ", ".join(f"{count} of {size} in {name}" for name, (count, size) in dead.items())
    return Cause(
        "dead units",
        f"the gradient of their bias and weights is exactly 0: {seen}",
        "lower the learning rate, or start again with a leaky or smooth activation; no step brings a dead unit back",
    )


def saturated_softmax(loss: Loss, params: Params, answers: Answers | None, found: Forecast) -> Cause | None:
    """Many answers are sure and wrong."""
    if answers is None:
        return None
    sure = answers.probabilities.max(axis=1) > SURE
    wrong = float(np.mean(sure & ~answers.right))
    if wrong <= WRONG:
        return None
    return Cause(
        "saturated softmax",
        f"{100 * wrong:.0f} % of the examples get a wrong answer with a probability above {SURE}",
        "standardise the inputs, or draw the last layer's weights smaller",
    )


def separable_tail(loss: Loss, params: Params, answers: Answers | None, found: Forecast) -> Cause | None:
    """Every example is on the right side already: the loss falls like 1/t, by longer weights alone (Soudry 2018)."""
    penalised = isinstance(loss, Composite) and loss.penalty is not None
    if answers is None or penalised or not answers.right.all():
        return None
    return Cause(
        SEPARABLE,
        "every example is answered rightly: the loss falls like 1/t, to zero at infinity, by longer weights alone",
        "stop here, or add weight decay; a normalised or growing learning rate shortens the tail",
    )
