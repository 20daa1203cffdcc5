"""Gradient descent with softmax: the loss of one example, dz = ŷ - y, and backpropagation written out by hand.

    python -m experiments.lecture_loss_and_backprop --quick  # 15 s
    python -m experiments.lecture_loss_and_backprop          # 15 s

Of the loss -Σ y log ŷ only the true class's term remains. At y = (0, 1, 0, 0), ŷ = (.3, .2, .1, .4) it is -log .2;
gradient descent on it can only raise ŷ₂. The cost is the mean over the data set. Then nets of 1 to 6 layers on irises,
three times with the same start: NumPy with the lecture's equations,

    dZ_L = Ŷ - Y,   dW_l = dZ_l A_{l-1}ᵀ / n,   db_l = Σ dZ_l / n,   dZ_{l-1} = W_lᵀ dZ_l ⊙ (1 - A_{l-1}²),

jax.grad ("the framework does the rest"), and flax. The gradients may differ by the rounding of sums
of n terms in every layer; float64.

What comes out: one gradient to 1e-15, and one training run to 1e-9, whichever way it is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import script
from experiments.claim import Claim
from jaxsoft import data, lecture, losses, models, optimizers, problem, softmax, style, sweep, train
from jaxsoft.models import Layers
from jaxsoft.problem import Params, Problem

Weights = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Config:
    dataset: str = "iris"
    width: int = 8
    depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6)  # layers of weights
    depth: int = 3  # of the net that is trained
    learning_rate: float = 0.3
    steps: int = 300
    example_rate: float = 0.5
    example_steps: int = 20
    seed: int = 0


QUICK = Config()
TINY = Config(depths=(1, 3), depth=2, steps=20, example_steps=5)


class Results(NamedTuple):
    """ŷ (step, 4) and the loss (step,) of the lecture's example; its gradient by way of computing it; the cost and the
    mean of the losses; distances of gradients from the ones by hand by framework and depth; losses by way of
    training."""

    y_hat: np.ndarray
    loss: np.ndarray
    dz: dict[str, np.ndarray]
    cost: tuple[float, float]
    gradients: dict[str, np.ndarray]
    training: dict[str, np.ndarray]


def forward(weights: Weights, x: np.ndarray) -> list[np.ndarray]:
    """A_0 = X, A_l = tanh(W_l A_{l-1} + b_l), and last Ŷ = softmax(W_L A_{L-1} + b_L): columns are examples."""
    a, z = [x], x
    for w, b in weights:
        z = w @ a[-1] + b[:, None]
        a.append(np.tanh(z))
    e = np.exp(z - z.max(axis=0))
    return [*a[:-1], e / e.sum(axis=0)]


def output_gradient(y_hat: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dZ_L = Ŷ - Y."""
    return y_hat - y


def backward(weights: Weights, x: np.ndarray, y: np.ndarray) -> Weights:
    """The gradient of the cost by the lecture's equations; x (d, n) and y (C, n), one-hot."""
    a = forward(weights, x)
    dz = output_gradient(a[-1], y)
    gradient: Weights = []
    for (w, _), before in zip(reversed(weights), reversed(a[:-1]), strict=True):
        gradient.append((dz @ before.T / x.shape[1], dz.mean(axis=1)))
        dz = w.T @ dz * (1 - before**2)
    return gradient[::-1]


def train_by_hand(weights: Weights, x: np.ndarray, y: np.ndarray, config: Config) -> np.ndarray:
    """The cost before each step of gradient descent, and after the last."""
    cost = []
    for _ in range(config.steps + 1):
        cost.append(-np.mean(np.log(np.sum(y * forward(weights, x)[-1], axis=0))))
        gradient = backward(weights, x, y)
        weights = [
            (w - config.learning_rate * dw, b - config.learning_rate * db)
            for (w, b), (dw, db) in zip(weights, gradient, strict=True)
        ]
    return np.array(cost)


class Net(nn.Module):
    """The same net in flax."""

    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for size in self.sizes[1:-1]:
            x = nn.tanh(nn.Dense(size)(x))
        return nn.Dense(self.sizes[-1])(x)


def to_numpy(params: Layers) -> Weights:
    return [(np.asarray(layer.weight), np.asarray(layer.bias)) for layer in params]


def to_flax(params: Layers) -> dict[str, dict[str, jax.Array]]:
    """flax keeps W as (in, out)."""
    return {f"Dense_{l}": {"kernel": p.weight.T, "bias": jnp.asarray(p.bias)} for l, p in enumerate(params)}


def nets(depth: int, config: Config) -> tuple[Layers, Problem, Problem]:
    """One draw of parameters, and the problem with the library's net and with flax's."""
    examples = data.get(config.dataset)
    sizes = (examples.x.shape[1], *[config.width] * (depth - 1), examples.num_classes)
    model = models.mlp(sizes, init="glorot")
    flax = models.from_flax(Net(sizes), examples.x[0])
    params = model.init(jax.random.fold_in(jax.random.key(config.seed), depth))
    return params, problem.classification(model, examples), problem.classification(flax, examples)


def by_hand(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (d, n) and one-hot labels (C, n): the lecture's columns."""
    examples = data.get(config.dataset)
    return examples.x.T.astype(np.float64), np.eye(examples.num_classes)[examples.y].T


def gradients(config: Config) -> dict[str, np.ndarray]:
    """‖difference‖ / ‖gradient‖ from the gradient by hand, by framework, for each depth."""
    x, y = by_hand(config)
    far: dict[str, list[float]] = {"jax.grad": [], "flax": []}
    for depth in config.depths:
        params, ours, flax = nets(depth, config)
        hand = backward(to_numpy(params), x, y)
        flat = ravel_pytree(to_flax(tuple(models.Layer(jnp.asarray(w), jnp.asarray(b)) for w, b in hand)))[0]
        found = {
            "jax.grad": to_flax(jax.jit(jax.grad(ours.loss))(params)),
            "flax": jax.jit(jax.grad(flax.loss))(to_flax(params)),
        }
        for name, gradient in found.items():
            far[name].append(float(jnp.linalg.norm(ravel_pytree(gradient)[0] - flat) / jnp.linalg.norm(flat)))
    return {name: np.array(values) for name, values in far.items()}


def training(config: Config, *, progress: bool) -> dict[str, np.ndarray]:
    """The cost along gradient descent from one start, in three ways."""
    params, ours, flax = nets(config.depth, config)
    optimizer = optimizers.make("gd", config.learning_rate)
    found = {"by hand (NumPy)": train_by_hand(to_numpy(params), *by_hand(config), config)}
    for name, made, start in (("jax.grad", ours, params), ("flax", flax, to_flax(params))):
        here = made._replace(init=lambda key, start=start: start)  # pyrefly: ignore[bad-argument-type]
        process = train.make_train(here, optimizer)
        ds = sweep.run(process, {"run": sweep.Seeds(1)}, seed=0, steps=config.steps, progress=progress)
        found[name] = ds["loss"].to_numpy()[0]
    return found


def example(config: Config, *, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """ŷ and the loss of the lecture's example along gradient descent on z."""
    y = jnp.asarray(lecture.Y)

    def loss(z: Params) -> jax.Array:
        return losses.cross_entropy(jnp.asarray(z), y)

    surface = Problem(lambda key: jnp.log(jnp.asarray(lecture.Y_HAT)), loss)
    optimizer = optimizers.make("gd", config.example_rate)
    process = train.make_train(surface, optimizer, probe=lambda z: {"y_hat": softmax.softmax(jnp.asarray(z))})
    ds = sweep.run(process, {"run": sweep.Seeds(1)}, seed=0, steps=config.example_steps, progress=progress)
    return ds["y_hat"].to_numpy()[0], ds["loss"].to_numpy()[0]


def example_by_hand(config: Config) -> np.ndarray:
    """ŷ (step, 4) along z ← z - η (ŷ - y), in NumPy."""
    z, y, way = np.log(lecture.Y_HAT), np.array(lecture.Y), []
    for _ in range(config.example_steps + 1):
        way.append(np.exp(z) / np.exp(z).sum())
        z = z - config.example_rate * (way[-1] - y)
    return np.array(way)


def main(config: Config = Config(), *, progress: bool = False) -> Results:
    z, y = jnp.log(jnp.asarray(lecture.Y_HAT)), jnp.asarray(lecture.Y)
    dz = {
        "ŷ - y": output_gradient(np.asarray(softmax.softmax(z)), np.asarray(y)),
        "jax.grad": np.asarray(jax.grad(losses.cross_entropy)(z, y)),
        "cross_entropy_grad": np.asarray(losses.cross_entropy_grad(z, y)),
    }
    params, ours, _ = nets(config.depth, config)
    x, labels = by_hand(config)
    each = -np.log(np.sum(labels * forward(to_numpy(params), x)[-1], axis=0))
    cost = float(ours.loss(params)), float(each.mean())  # pyrefly: ignore[bad-argument-type]
    path = example(config, progress=progress)
    return Results(*path, dz, cost, gradients(config), training(config, progress=progress))


def claims(results: Results, config: Config) -> list[Claim]:
    eps, true = float(np.finfo(float).eps), int(np.argmax(lecture.Y))
    n = len(data.get(config.dataset).y)
    rises = float(np.mean(np.diff(results.y_hat[:, true]) > 0))
    by_ear = np.subtract(lecture.Y_HAT, lecture.Y)
    off_way = float(abs(results.y_hat - example_by_hand(config)).max())
    made = [
        Claim("loss of the example", "-log ŷ₂", -np.log(lecture.Y_HAT[true]), float(results.loss[0]), 4 * eps),
        Claim("loss over -log ŷ₂, less 1, at every step", "only the true class's term remains", 1e-13,
            float(abs(results.loss / -np.log(results.y_hat[:, true]) - 1).max()), 0, "at most"),
        Claim("share of the steps that raise ŷ₂", "z₂ rises, the others fall", 1.0, rises, 0),
        Claim("ŷ of the example: distance from z ← z - η (ŷ - y) by hand", "ŷ - y", 1e-13, off_way, 0, "at most"),
        Claim("cost of the data set over the mean of its losses", "the definition", 1.0,
            results.cost[0] / results.cost[1], n * eps),
    ]  # fmt: skip
    for name, dz in results.dz.items():
        far = float(abs(dz - by_ear).max())
        made.append(Claim(f"dz by {name}: distance from (.3, -.8, .1, .4)", "ŷ - y", 8 * eps, far, 0, "at most"))
    for name, far in results.gradients.items():
        worst = float((far / np.array(config.depths)).max())
        about = f"{name}: distance from backpropagation by hand, per layer"
        made.append(Claim(about, "the chain rule", n * eps, worst, 0, "at most"))
    hand, *others = results.training.items()
    for name, cost in others:
        far = float(abs(cost / hand[1] - 1).max())
        made.append(
            Claim(f"{name}: cost along the run over that {hand[0]}, less 1", "the chain rule", 1e-9, far, 0, "at most")
        )
    return made


def plot(results: Results, config: Config, *, ax: Axes | None = None) -> Axes:
    """ŷ of the example while it learns, and its loss; the distance of gradients; one training run in three ways."""
    if ax is None:
        (ax, beside), (left, right) = Figure(figsize=(11, 8.5), layout="constrained").subplots(2, 2)
        plot_example_loss(results.loss, config, beside)
        plot_gradients(results.gradients, config, left)
        plot_training(results.training, right)
    ax = style.axes(ax)
    by_hand = example_by_hand(config)
    for k in range(results.y_hat.shape[1]):
        name = "ŷ" + "₁₂₃₄"[k] + (", the true class" if lecture.Y[k] else "")
        style.curve(ax, k, np.arange(len(results.y_hat)), results.y_hat[:, k], name)
        ax.plot(by_hand[:, k], color="black", lw=0.8, zorder=4)
    ax.plot([], [], color="black", lw=0.8, label="z ← z - η (ŷ - y), by hand")
    ax.set(ylim=(0, 1), xlabel="step of gradient descent on z", ylabel="ŷ")
    ax.set_xticks(range(0, len(results.y_hat), 5))
    ax.set_title("To minimise -log ŷ₂ is to make ŷ₂ large", fontsize="medium")
    ax.legend(frameon=False)
    return ax


def plot_example_loss(loss: np.ndarray, config: Config, ax: Axes) -> None:
    style.axes(ax)
    true = int(np.argmax(lecture.Y))
    style.curve(ax, true, np.arange(len(loss)), loss, "loss, -Σ y log ŷ")
    ax.plot(-np.log(example_by_hand(config)[:, true]), color="black", lw=0.8, zorder=4, label="-log ŷ₂, by hand")
    ax.set(ylim=(0, None), xlabel="step of gradient descent on z", ylabel="loss of the example (nats)")
    ax.set_xticks(range(0, len(loss), 5))
    ax.set_title("Of the loss only the true class's term remains", fontsize="medium")
    ax.legend(frameon=False)


def plot_gradients(far: Mapping[str, np.ndarray], config: Config, ax: Axes) -> None:
    style.axes(ax)
    eps = float(np.finfo(float).eps)
    for i, (name, values) in enumerate(far.items(), start=1):
        look = style.style(i)
        ax.plot(
            config.depths,
            np.maximum(values, eps / 8),
            look.marker + "--",
            color=look.color,
            mfc="none",
            ms=8,
            label=name,
        )
    ax.axhline(eps, color="black", lw=1, label="rounding of one number, ε")
    allowed = len(data.get(config.dataset).y) * eps * np.array(config.depths)
    ax.plot(config.depths, allowed, color="black", lw=1, ls=":", label="of sums over n examples, n L ε")
    ax.set(yscale="log", xlabel="layers L", ylabel="distance from the gradient by hand, relative")
    ax.set_title("Backpropagation by hand is what the framework does", fontsize="medium")
    ax.set_xticks(config.depths)
    ax.legend(frameon=False, fontsize="small")


def plot_training(training: Mapping[str, np.ndarray], ax: Axes) -> None:
    style.axes(ax)
    for i, (name, cost) in enumerate(training.items()):
        style.curve(ax, i, np.arange(len(cost)), cost, name).set_linewidth(4 - 1.5 * i)
    ax.set(ylim=(0, None), xlabel="step of gradient descent", ylabel="cost (nats)")
    ax.set_title("One start, three ways, one training run", fontsize="medium")
    ax.legend(frameon=False)


if __name__ == "__main__":
    script.run("lecture_loss_and_backprop", Config(), main, claims, plot, x64=True)
