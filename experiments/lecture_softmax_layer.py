"""What does a softmax layer do? A vector goes in, a vector of probabilities that sum to 1 comes out.

    python -m experiments.lecture_softmax_layer --quick  # 5 s
    python -m experiments.lecture_softmax_layer          # 5 s

The lecture's example z = (5, 2, -1, 3) through the three steps: exponentiate, sum, divide. Other activations take a
number to a number: their Jacobian is diagonal. Softmax takes a vector to a vector: its Jacobian diag(ŷ) - ŷ ŷᵀ is full,
and has the rank C - 1, as the same number added to all of z changes nothing. It is the soft version of the hard max,
which puts a 1 at the largest output: with z / T it tends to it like e^{-Δ/T} as the temperature T goes to 0, Δ the
lead of the largest output over the next, here 2; for large T all classes get 1/C. float64.

What comes out: the numbers of the lecture, a Jacobian without a zero, and the hard max at a rate of 2 in 1/T.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import script
from experiments.claim import Claim
from jaxsoft import lecture, softmax, style

# What the lecture writes on the board.
EXPONENTIALS, TOTAL, Y_HAT = (148.4, 7.4, 0.4, 20.1), 176.3, (0.842, 0.042, 0.002, 0.114)


@dataclass(frozen=True)
class Config:
    z: tuple[float, ...] = lecture.Z
    classes: tuple[int, ...] = (2, 10, 1000)
    vectors: int = 1000  # random z, of each number of classes
    spread: float = 5.0
    cold: float = 0.05  # the lowest temperature
    hot: float = 1e4
    temperatures: int = 200
    seed: int = 0


QUICK = Config()
TINY = Config(classes=(2, 10), vectors=20, temperatures=20)


class Results(NamedTuple):
    """The three steps; the hard max (C,); the largest |Σ ŷ - 1| of random z by C; the Jacobians (C, C) of softmax by
    jax and by the library's formula, and of the sigmoid; ŷ and 1 - ŷ (T, C) by T."""

    steps: tuple[np.ndarray, np.ndarray, np.ndarray]
    hard: np.ndarray
    off_one: dict[int, float]
    vector: np.ndarray
    formula: np.ndarray
    elementwise: np.ndarray
    temperature: np.ndarray
    softened: np.ndarray
    rest: np.ndarray


def main(config: Config = Config(), *, progress: bool = False) -> Results:
    """Everything from the library's softmax, but for the three steps as the lecture writes them."""
    z = jnp.asarray(config.z)
    keys = jax.random.split(jax.random.key(config.seed), len(config.classes))
    drawn = {
        c: config.spread * jax.random.normal(k, (config.vectors, c)) for k, c in zip(keys, config.classes, strict=True)
    }
    off_one = {c: float(jnp.abs(softmax.softmax(v).sum(axis=-1) - 1).max()) for c, v in drawn.items()}
    temperature = np.geomspace(config.cold, config.hot, config.temperatures)
    p, q, _ = softmax.probabilities(z[None] / jnp.asarray(temperature)[:, None])
    vector, elementwise = (np.asarray(jax.jacobian(layer)(z)) for layer in (softmax.softmax, jax.nn.sigmoid))
    exponentials, total, divided = map(np.asarray, lecture.three_steps(z))
    steps = (exponentials, total, divided)
    hard, formula = np.asarray(softmax.hardmax(z)), np.asarray(softmax.jacobian(z))
    return Results(steps, hard, off_one, vector, formula, elementwise, temperature, np.asarray(p), np.asarray(q))


def claims(results: Results, config: Config) -> list[Claim]:
    exponentials, total, divided = results.steps
    z, c, board = np.asarray(config.z), len(config.z), "the lecture's board"
    made = []
    if config.z == lecture.Z:
        for k in range(c):
            value = round(float(exponentials[k]), 1)
            made.append(Claim(f"1. e^z of {z[k]:g}, one decimal", board, EXPONENTIALS[k], value, 1e-12))
        made.append(Claim("2. Σ e^z, one decimal", board, TOTAL, round(float(total), 1), 1e-12))
        for k in range(c):
            made.append(Claim(f"3. ŷ{k + 1}, three decimals", board, Y_HAT[k], round(float(divided[k]), 3), 1e-12))
    eps = float(np.finfo(float).eps)
    for classes, off in results.off_one.items():
        about = f"C = {classes}: |Σ ŷ - 1| of {config.vectors} random z"
        made.append(Claim(about, "probabilities", classes * eps, off, 0, "at most"))
    apart, largest = ~np.eye(c, dtype=bool), np.eye(c)[z.argmax()]
    exact = np.diag(divided) - np.outer(divided, divided)
    full, lonely = (int((matrix[apart] != 0).sum()) for matrix in (results.vector, results.elementwise))
    off_exact, off_formula = (float(abs(matrix - exact).max()) for matrix in (results.vector, results.formula))
    off_hard = float(abs(results.hard - largest).max())
    rank = int(np.linalg.matrix_rank(results.vector))
    far = float(abs(results.softened[0] - results.hard).max())
    log_far, inverse = np.log(results.rest[:2, z.argmax()]), 1 / results.temperature[:2]
    rate = float(np.diff(log_far)[0] / np.diff(inverse)[0])
    lead = float(np.diff(np.sort(z))[-1])
    hottest = float(results.softened[-1].max())
    return [
        *made,
        Claim("softmax: derivatives off the diagonal, not 0", "a vector to a vector", c * (c - 1), full, 0),
        Claim("sigmoid: derivatives off the diagonal, not 0", "each number by itself", 0, lonely, 0),
        Claim("softmax: distance of J from diag(ŷ) - ŷ ŷᵀ", "quotient rule", 4 * eps, off_exact, 0, "at most"),
        Claim("softmax.jacobian: distance from diag(ŷ) - ŷ ŷᵀ", "quotient rule", 4 * eps, off_formula, 0, "at most"),
        Claim("softmax: rank of J", "z + a changes nothing", c - 1, rank, 0),
        Claim("hard max: distance from 1 at the largest z, else 0", "the definition", 0, off_hard, 0),
        Claim("T → 0: distance from the hard max", "C e^{-Δ/T}", c * np.exp(-lead / config.cold), far, 0, "at most"),
        Claim("T → 0: rate of its decay in 1/T", "Δ, the lead of the largest z", -lead, rate, 1e-4),
        Claim("T → ∞: largest ŷ", "1/C", 1 / c, hottest, 2 * np.ptp(z) / config.hot),
    ]


def plot(results: Results, config: Config, *, ax: Axes | None = None) -> Axes:
    """Above the three steps, below both Jacobians and the way to the hard max; with ``ax`` the last alone."""
    if ax is None:
        figure = Figure(figsize=(12, 7), layout="constrained")
        (*steps, last), (left, middle, ax) = figure.subplots(2, 3)
        plot_steps(results, config, [*steps, last])
        for panel, matrix, name in (
            (left, results.vector, "Softmax: a vector to a vector"),
            (middle, results.elementwise, "Sigmoid: each number by itself"),
        ):
            plot_jacobian(matrix, max(abs(m).max() for m in (results.vector, results.elementwise)), name, panel)
    ax = style.axes(ax)
    for k, z in enumerate(config.z):
        style.curve(ax, k, results.temperature, results.softened[:, k], f"z = {z:g}")
        look, beside = style.style(k), results.temperature[:1] / 1.8 ** (len(config.z) - k)
        ax.plot(beside, results.hard[k : k + 1], look.marker, color=look.color, mfc="white", ms=8, mew=2, zorder=5)
    ax.axhline(1 / len(config.z), color=style.GREY, lw=1, ls=":")
    ax.text(results.temperature[-1], 1 / len(config.z) + 0.02, "1/C", color=style.GREY, ha="right")
    ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel="temperature T", ylabel="softmax(z / T)")
    ax.plot([], [], "o", color="black", mfc="white", ms=8, mew=2, label="hard max, T → 0")
    ax.set_title("Soft against hard max", fontsize="medium")
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_steps(results: Results, config: Config, panels: list[Axes]) -> None:
    exponentials, total, divided = results.steps
    classes = np.arange(1, len(config.z) + 1)
    shown = [
        (np.asarray(config.z), "{:g}", "z", "z: the outputs of the last layer"),
        (exponentials, "{:.1f}", "$e^z$", f"1. Exponentiate;  2. sum: {float(total):.1f}"),
        (divided, "{:.3f}", "ŷ", "3. Divide: ŷ = softmax(z), sum 1"),
    ]
    for panel, (values, form, name, title) in zip(panels, shown, strict=True):
        style.axes(panel)
        bars = panel.bar(classes, values, color=[style.style(k).color for k in range(len(values))], width=0.6)
        panel.bar_label(bars, [form.format(v) for v in values], padding=2)
        panel.axhline(0, color="black", lw=0.8)
        panel.set_xticks(classes)
        panel.margins(y=0.12)
        panel.set(xlabel="class", ylabel=name)
        panel.set_title(title, fontsize="medium")
    panels[-1].bar(classes, results.hard, fill=False, ec="black", ls="--", width=0.8, label="hard max")
    panels[-1].legend(frameon=False)


def plot_jacobian(matrix: np.ndarray, most: float, name: str, ax: Axes) -> None:
    """Colours from -1.3 ``most`` to 1.3 ``most``."""
    ax.imshow(matrix, cmap="PuOr", vmin=-1.3 * most, vmax=1.3 * most)
    for (k, j), value in np.ndenumerate(matrix):
        ax.text(
            j,
            k,
            f"{value:.4f}" if value else "0",
            ha="center",
            va="center",
            color="white" if abs(value) > 0.8 * most else "black",
        )
    ticks = range(len(matrix))
    ax.set_xticks(ticks, [f"$z_{j + 1}$" for j in ticks])
    ax.set_yticks(ticks, [f"$\\hat{{y}}_{k + 1}$" for k in ticks])
    ax.set(xlabel="derivative with respect to", ylabel="output")
    ax.set_title(name, fontsize="medium")


if __name__ == "__main__":
    script.run("lecture_softmax_layer", Config(), main, claims, plot, x64=True)
