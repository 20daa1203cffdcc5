"""Softmax regression generalises logistic regression: with C = 2 classes it is the same. Is the fit the same, too?

    python -m experiments.lecture_logistic_regression --quick  # 8 s
    python -m experiments.lecture_logistic_regression          # 8 s

Of two outputs only the difference counts: softmax(z)₁ = σ(z₁ - z₂). With the penalty (λ/2) (‖w₁‖² + ‖w₂‖²) the optimum
has w₂ = -w₁, so that for w = w₁ - w₂ it is (λ/4) ‖w‖²: scikit-learn's logistic regression with its C = 2 / (n λ). With
more classes there is no such factor, and C = 1 / (n λ). The loss plus the penalty has one minimum in w: both programs
must find it. Tumours (2 classes, 30 features) and wines (3 classes, 13 features), Nesterov's momentum from random
weights, whose w₁ + w₂ is not zero: the two classes' gradients of the loss add up to 0, so the gradient of w₁ + w₂ is
λ (w₁ + w₂), and only the penalty can take it away; float64.

What comes out: one optimum for both programs: weights and probabilities are the same to seven digits.
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
from jaxsoft import data, models, optimizers, problem, softmax, style, sweep, train


@dataclass(frozen=True)
class Config:
    datasets: tuple[str, ...] = ("breast_cancer", "wine")
    l2: float = 0.01
    learning_rate: float = 0.1
    tolerance: float = 1e-11  # of the gradient
    steps: int = 5000
    pairs: int = 10_000  # random (z₁, z₂)
    seed: int = 0


QUICK = Config()


class Fit(NamedTuple):
    """Weights (C, d + 1), the bias last, and ŷ (n, C) of softmax regression and of scikit-learn; ‖∇L‖ at the end."""

    weights: np.ndarray
    y_hat: np.ndarray
    oracle: np.ndarray
    oracle_y_hat: np.ndarray
    grad_norm: float


class Results(NamedTuple):
    """The largest |softmax(z)₁ / σ(z₁ - z₂) - 1| over random z; the fits by data set."""

    off: float
    fits: dict[str, Fit]


def centred(weights: np.ndarray) -> np.ndarray:
    """Without the part that all classes share, which changes no probability."""
    return weights - weights.mean(axis=0)


def inputs(examples: data.Dataset) -> np.ndarray:
    """(n, d + 1), the last one always 1."""
    return np.column_stack([examples.x, np.ones(len(examples.y))]).astype(np.float64)


def ask_scikit_learn(examples: data.Dataset, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """Its weights (C, d + 1) and probabilities (n, C)."""
    from sklearn.linear_model import LogisticRegression

    strength = (2 if examples.num_classes == 2 else 1) / (len(examples.y) * l2)
    x = inputs(examples)[:, :-1]
    fit = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(x, examples.y)
    found = np.column_stack([fit.coef_, fit.intercept_])
    return found if len(found) > 1 else np.concatenate([-found / 2, found / 2]), fit.predict_proba(x)


def main(config: Config = Config(), *, progress: bool = False) -> Results:
    """Train on each data set, and ask scikit-learn."""
    z = 10 * jax.random.normal(jax.random.key(config.seed), (config.pairs, 2))
    off = jnp.abs(softmax.softmax(z)[:, 0] / jax.nn.sigmoid(z[:, 0] - z[:, 1]) - 1).max()
    fits = {}
    for name in config.datasets:
        examples = data.get(name)
        c, d = examples.num_classes, examples.x.shape[1]
        made = problem.classification(models.softmax_regression(d, c, init="normal"), examples, config.l2)
        optimizer = optimizers.make("nesterov", config.learning_rate)
        process = train.make_train(made, optimizer, tolerance=config.tolerance, keep_params=True)
        ds = sweep.run(process, {"run": sweep.Seeds(1)}, seed=0, steps=config.steps, progress=progress)
        theta = ds["final_params"].to_numpy()[0]  # weight (C, d), bias (C,)
        weights = np.column_stack([theta[: c * d].reshape(c, d), theta[c * d :]])
        y_hat = np.asarray(softmax.softmax(inputs(examples) @ weights.T))
        grad_norm = float(ds["grad_norm"].isel(run=0, step=int(ds["steps"][0])))
        fits[name] = Fit(weights, y_hat, *ask_scikit_learn(examples, config.l2), grad_norm)
    return Results(float(off), fits)


def claims(results: Results, config: Config) -> list[Claim]:
    eps = float(np.finfo(float).eps)
    made = [Claim("softmax(z)₁ / σ(z₁ - z₂) - 1, random z", "C = 2", 8 * eps, results.off, 0, "at most")]
    for name, fit in results.fits.items():
        ours, theirs = centred(fit.weights), centred(fit.oracle)
        if len(ours) == 2:
            opposite = float(abs(fit.weights[:, :-1].sum(axis=0)).max())
            source, room = "∇ = λ (w₁ + w₂), and ‖∇L‖ at the end", np.sqrt(2) * config.tolerance / config.l2
            made.append(Claim(f"{name}: largest |w₁ + w₂|", source, room, opposite, 0, "at most"))
        for claim, a, b in (("weights", ours, theirs), ("probabilities", fit.y_hat, fit.oracle_y_hat)):
            far = float(np.linalg.norm(a - b) / np.linalg.norm(b))
            made.append(
                Claim(f"{name}: distance of the {claim} from scikit-learn's", "one minimum", 1e-7, far, 0, "at most")
            )
    return made


def plot(results: Results, config: Config, *, ax: Axes | None = None) -> Axes:
    """ŷ of every tumour on the logistic curve; beside it the weights against scikit-learn's."""
    if ax is None:
        ax, right = Figure(figsize=(11, 4.4), layout="constrained").subplots(1, 2)
        plot_weights(results, right)
    ax = style.axes(ax)
    name = next(n for n, fit in results.fits.items() if len(fit.weights) == 2)
    fit, examples = results.fits[name], data.get(name)
    z = inputs(examples) @ (fit.weights[1] - fit.weights[0])
    line = np.linspace(z.min() - 1, z.max() + 1, 1000)
    ax.plot(line, np.asarray(jax.nn.sigmoid(line)), color="black", lw=1, label="logistic function")
    for c in range(2):
        look, here = style.style(c), examples.y == c
        ax.plot(
            z[here],
            fit.y_hat[here, 1],
            look.marker,
            color=look.color,
            mfc="none",
            ms=5,
            label=f"softmax, class {c + 1}",
        )
    ax.set(xlabel="difference of the two outputs, $z_2 - z_1$", ylabel="ŷ of class 2")
    ax.set_title(f"Two classes: softmax is logistic regression ({name})", fontsize="medium")
    ax.legend(frameon=False)
    return ax


def plot_weights(results: Results, ax: Axes) -> None:
    style.axes(ax)
    for i, (name, fit) in enumerate(results.fits.items()):
        look, theirs = style.style(i), centred(fit.oracle).ravel()
        ax.plot(
            theirs,
            centred(fit.weights).ravel(),
            look.marker,
            color=look.color,
            mfc="none",
            label=f"{name}: C = {len(fit.weights)}",
        )
    ends = np.array(ax.get_xlim())
    ax.plot(ends, ends, color="black", lw=1, zorder=0, label="equal")
    ax.set(xlabel="weight or bias in scikit-learn", ylabel="weight or bias in softmax regression")
    ax.set_title("Trained by momentum: scikit-learn's optimum", fontsize="medium")
    ax.legend(frameon=False)


if __name__ == "__main__":
    script.run("lecture_logistic_regression", Config(), main, claims, plot, x64=True)
