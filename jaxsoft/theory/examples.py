"""Examples and labels as the closed forms take them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jaxsoft import checks


def labelled(x: npt.ArrayLike, y: npt.ArrayLike, num_classes: int) -> tuple[npt.NDArray[np.float64], npt.NDArray]:
    """Inputs (n, d), those of more dimensions flattened, and their labels (n,).

    Raises ValueError for no examples, numbers that are not finite, and labels that are no integers in [0, C).
    """
    inputs, labels = np.asarray(x, np.float64), np.asarray(y)
    if inputs.ndim < 2 or not inputs.size or not np.isfinite(inputs).all():
        raise ValueError(f"x: expected finite numbers of shape (n, ...), n > 0, got shape {inputs.shape}")
    if labels.shape != inputs.shape[:1]:
        raise ValueError(f"labels: expected shape ({len(inputs)},), one for each example, got {labels.shape}")
    checks.count("num_classes", num_classes, at_least=2)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels: expected integers in [0, {num_classes}), got {labels.dtype}")
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        raise ValueError(f"labels: expected integers in [0, {num_classes}), got {labels[wrong][0]}")
    return inputs.reshape(len(inputs), -1), labels
