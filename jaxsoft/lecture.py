"""The lecture's worked example: the softmax layer, the hard max, the loss and its gradient, step by step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from rich.console import Console
from rich.table import Table

from jaxsoft import losses, softmax

Z = (5.0, 2.0, -1.0, 3.0)
Y = (0.0, 1.0, 0.0, 0.0)
Y_HAT = (0.3, 0.2, 0.1, 0.4)


def three_steps(z: ArrayLike) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Exponentiate, sum, divide, as the lecture writes it: e^z (C,), Σ e^z and ŷ = e^z / Σ e^z, for logits z (C,).

    ``softmax.softmax`` is the same without overflow and with full relative accuracy.
    """
    exponentials = jnp.exp(jnp.asarray(z))
    total = jnp.sum(exponentials)
    return exponentials, total, exponentials / total


def softmax_table() -> Table:
    """z = (5, 2, -1, 3) through the three steps: exponentiate, sum, divide."""
    z = jnp.asarray(Z)
    exponentials, total, divided = three_steps(z)
    library = softmax.softmax(z)
    hard = softmax.hardmax(z)
    table = Table(title="The softmax layer: a vector of C = 4 logits in, a vector of probabilities out")
    for heading in ("class", "z", "1. exponentiate: e^z", "2. sum", "3. divide: ŷ", "softmax(z)", "hard max"):
        table.add_column(heading, justify="right")
    for c in range(len(Z)):
        shown_total = f"{total:.1f}" if c == 0 else ""
        numbers = (f"{exponentials[c]:.1f}", shown_total, f"{divided[c]:.5f}", f"{library[c]:.5f}", f"{hard[c]:.0f}")
        table.add_row(str(c + 1), f"{z[c]:g}", *numbers)
    table.add_section()
    table.add_row("sum", "", "", f"{total:.1f}", f"{divided.sum():.5f}", f"{library.sum():.5f}", f"{hard.sum():.0f}")
    return table


def gradient_table() -> Table:
    """The loss of y = (0, 1, 0, 0) at ŷ = (.3, .2, .1, .4) and its gradient in the logits, twice."""
    y, z = jnp.asarray(Y), jnp.log(jnp.asarray(Y_HAT))
    analytic = losses.cross_entropy_grad(z, y)
    automatic = jax.grad(losses.cross_entropy)(z, y)
    table = Table(title=f"The loss -Σ y log ŷ = -log {Y_HAT[1]} = {losses.cross_entropy(z, y):.4f}, and dz = ŷ - y")
    for heading in ("class", "y", "ŷ", "-y log ŷ", "dz = ŷ - y", "jax.grad"):
        table.add_column(heading, justify="right")
    for c in range(len(Y)):
        part = f"{-Y[c] * np.log(Y_HAT[c]):.4f}" if Y[c] else "0"
        table.add_row(str(c + 1), f"{y[c]:g}", f"{Y_HAT[c]}", part, f"{analytic[c]:+.4f}", f"{automatic[c]:+.4f}")
    return table


def descent_table(learning_rate: float = 1.0, steps: int = 5) -> Table:
    """Gradient descent on that loss, z <- z - η dz: ŷ₂ rises and the loss falls."""
    y, z = jnp.asarray(Y), jnp.log(jnp.asarray(Y_HAT))
    table = Table(title=f"Gradient descent on the logits, z ← z - η (ŷ - y), η = {learning_rate:g}")
    for heading in ("step", "ŷ₁", "ŷ₂ (true class)", "ŷ₃", "ŷ₄", "loss"):
        table.add_column(heading, justify="right")
    for step in range(steps + 1):
        probabilities = softmax.softmax(z)
        row = [f"{p:.4f}" for p in probabilities]
        table.add_row(str(step), *row, f"{losses.cross_entropy(z, y):.4f}")
        z = z - learning_rate * losses.cross_entropy_grad(z, y)
    return table


def show(console: Console | None = None) -> None:
    """Print the whole worked example."""
    console = console or Console()
    if not console.is_terminal:
        console.width = 120
    two = jnp.asarray([1.5, -0.5])
    logistic = 1 / (1 + jnp.exp(-(two[0] - two[1])))
    for table in (softmax_table(), gradient_table(), descent_table()):
        console.print(table)
        console.print()
    console.print(
        f"Two classes are logistic regression: softmax(z)₁ = {softmax.softmax(two)[0]:.6f} at z = (1.5, -0.5), and the "
        f"logistic function of z₁ - z₂ = 2 is {logistic:.6f}."
    )
    console.print(
        f"A classifier that knows nothing answers 1/C for every class. Its loss is ln C: ln 4 = {np.log(4):.4f} here, "
        f"ln 10 = {np.log(10):.4f} for ten digits. That is the plateau on which training can stall."
    )
