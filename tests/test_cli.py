"""The command line as a person meets it: help at once, one line for a mistake, the whole way from data to page."""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxsoft import cli, data, models, optimizers, recipe, store

MODULE = [sys.executable, "-m", "jaxsoft"]


def run(*arguments, **options):
    return subprocess.run([*MODULE, *map(str, arguments)], capture_output=True, text=True, timeout=300, **options)


@pytest.mark.parametrize("arguments", [["--help"], ["sweep", "--help"], ["report", "--help"], ["lecture", "--help"]])
def test_help_is_instant_and_does_not_load_jax(arguments):
    def cpu():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    times = []
    for _ in range(3):
        before = cpu()
        done = run(*arguments)
        times.append(cpu() - before)
        assert done.returncode == 0
        assert "usage: jaxsoft" in done.stdout
    assert min(times) < 0.5  # processor seconds, so that a busy machine does not count
    loaded = "import sys; from jaxsoft import cli; cli.parse(['sweep']); print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout.strip() == "False"


def test_the_help_names_everything_there_is():
    text = run("sweep", "--help").stdout
    for name in (*data.NAMES, *optimizers.NAMES, *recipe.MODELS, *models.ACTIVATIONS, *models.INITS):
        assert name in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["sweep", "--model", "mpl"],
            "model: expected one of mlp, softmax_regression, deep_linear, cnn, got 'mpl' (nearest",
        ),
        (["sweep", "--steps", "0"], "steps: expected an integer >= 1, got 0"),
        (["sweep", "--steps", "many"], "Error parsing --steps"),
        (["sweep", "--seed", str(2**32)], "seed: expected an integer in [0, 4294967295], got 4294967296"),
        (["sweep", "--steps", str(2**31)], "steps: expected an integer in [1, 2147483647], got 2147483648"),
        (["sweep", "--inits", "-3"], "inits: expected an integer >= 1, got -3"),
        (["sweep", "--learning-rate", "0"], "learning_rate: expected a finite number > 0, got 0.0"),
        (["sweep", "--learning-rate", "nan"], "learning_rate: expected a finite number > 0, got nan"),
        (["sweep", "--scale", "-1"], "scale: expected a finite number > 0, got -1.0"),
        (["sweep", "--l2", "-1"], "l2: expected a finite number >= 0, got -1.0"),
        (["sweep", "--hidden", "0"], "hidden: expected an integer >= 1, got 0"),
        (["sweep", "--test", "1"], "test: expected a share in (0, 1), got 1.0"),
        (["sweep", "--dtype", "float16"], "dtype: expected one of float32, float64, got 'float16'"),
        (["sweep", "--optimizers", "gd", "gd"], "optimizers: expected different names, got gd, gd"),
        (["sweep", "--optimizer", "gd"], "--optimizer"),
        (["swep"], "sweep, report, diagnose, lecture"),
        ([], "sweep, report, diagnose, lecture"),
        (["report"], "Missing"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("jaxsoft: error: ")
    assert said.err.count("\n") == 1
    assert message in said.err


def bad_files(folder):
    """Files and folders that cannot be used, with what must be said of each."""
    good_x = np.zeros((6, 2))
    cases = []

    def npz(name, message, **arrays):
        np.savez(folder / name, **arrays)
        cases.append((["--dataset", folder / name], message))

    npz("range.npz", "labels: expected values in [0, 5), got -1 at index 1", x=good_x, y=np.array([0, -1, 0, 1, 2, 4]))
    npz("floats.npz", "labels: expected integers, got float64", x=good_x, y=np.linspace(0, 1, 6))
    npz("length.npz", "labels: expected shape (6,)", x=good_x, y=np.array([0, 1]))
    npz("nan.npz", "x: expected finite numbers", x=np.full((6, 2), np.nan), y=np.array([0, 1, 0, 1, 0, 1]))
    npz("empty.npz", "x: expected shape", x=np.zeros((0, 2)), y=np.zeros(0, int))
    npz("one.npz", "expected at least two classes", x=good_x, y=np.zeros(6, int))
    npz("names.npz", "expected arrays named x and y", a=good_x)
    (folder / "cut.npz").write_bytes((folder / "one.npz").read_bytes()[:100])
    cases.append((["--dataset", folder / "cut.npz"], "not a .npz archive, or a truncated one"))
    (folder / "words.csv").write_text("1,2,0\n1,two,1\n")
    cases.append((["--dataset", folder / "words.csv"], "line 2, column 2: expected a number, got 'two'"))
    cases.append((["--dataset", folder / "missing.csv"], "no such file"))
    (folder / "file").write_text("mine")
    cases.append((["--out", folder / "file"], "out: expected a folder, got the file"))
    (folder / "theirs").mkdir()
    (folder / "theirs" / "a.txt").write_text("mine")
    cases.append((["--out", folder / "theirs"], "holds 'a.txt'"))
    return cases


def test_what_only_the_data_can_tell_is_one_line_too(tmp_path):
    cases = [
        (["--dataset", "digit"], "dataset: expected one of digits, iris"),
        (["--optimizers", "adm"], "(nearest: 'adam')"),
        (["--activation", "tan"], "(nearest: 'tanh')"),
        (["--init", "glort"], "(nearest: 'glorot')"),
        (["--dataset", "iris", "--batch-size", "1000"], "batch_size: expected at most 120"),
        (["--dataset", "wine", "--model", "cnn"], "model: expected square images for cnn, got 13 features"),
        *bad_files(tmp_path),
    ]
    default = ["--out", str(tmp_path / "out"), "--inits", "2", "--steps", "3"]
    commands = [["sweep", *default, *map(str, arguments)] for arguments, _ in cases]
    script = (
        "import contextlib, io, sys\nfrom jaxsoft import cli\n"
        "for arguments in eval(sys.argv[1]):\n"
        "    said = io.StringIO()\n"
        "    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said): code = cli.main(arguments)\n"
        "    print(repr((code, said.getvalue())))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, repr(commands)], capture_output=True, text=True, timeout=300)
    results = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    assert len(results) == len(cases), done.stderr
    for (arguments, message), (code, said) in zip(cases, results, strict=True):
        last = said.rstrip("\n").splitlines()[-1]
        assert code == 2, (arguments, said)
        assert last.startswith("jaxsoft: error: "), (arguments, said)
        assert message in last, (arguments, said)
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "theirs" / "a.txt").read_text() == "mine"


def test_from_data_to_page(tmp_path):
    out = tmp_path / "run"
    small = ["--dataset", "iris", "--inits", 6, "--steps", 60, "--record-every", 20, "--hidden", 5, "--scale", 0.1]
    command = ["sweep", *small, "--optimizers", "gd", "adam", "--l2", 0, 0.01, "--out", out]
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "24/24 runs" in done.stderr
    assert f"jaxsoft report {out}" in done.stdout
    ds = store.load(out)
    assert dict(ds.sizes) == {"optimizer": 2, "l2": 2, "run": 6, "step": 4}
    assert ds.attrs["num_classes"] == 3
    assert json.loads(ds.attrs["config"])["dataset"] == "iris"
    assert bool(ds["committed"].all())
    again = run(*command)
    assert again.returncode == 0
    other = run(*command, "--seed", 1)
    assert other.returncode == 2
    assert "seed: the store has 0, this command 1" in other.stderr

    done = run("report", out)
    assert done.returncode == 0, done.stderr
    assert "gd" in done.stdout
    assert "adam" in done.stdout
    folder = tmp_path / "run-report"
    assert (folder / "report.html").stat().st_size > 10_000
    assert {p.suffix for p in folder.iterdir()} == {".html", ".png", ".svg"}


def test_a_model_of_each_kind_trains_in_float64(tmp_path):
    for model, extra in (("softmax_regression", ["--init", "zeros"]), ("deep_linear", []), ("cnn", ["--hidden", 2, 3])):
        done = run(
            *("sweep", "--model", model, *extra, "--optimizers", "adam", "--inits", 2, "--steps", 4, "--scale", 0.1),
            *("--dtype", "float64", "--out", tmp_path / model, "--batch-size", 32),
        )
        assert done.returncode == 0, done.stderr
        ds = store.load(tmp_path / model)
        assert ds["loss"].dtype == np.float64
        assert np.isfinite(ds["loss"]).all()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_anything_is_computed_is_one_line(tmp_path, signum, code):
    process = subprocess.Popen([*MODULE, "sweep", "--out", tmp_path / "run"], stderr=subprocess.PIPE, text=True)
    time.sleep(1.5)  # while jax is being imported
    process.send_signal(signum)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert "interrupted" in said.splitlines()[-1]


def test_the_current_folder_is_a_folder(tmp_path):
    small = ["--dataset", "iris", "--inits", 2, "--steps", 3, "--optimizers", "gd", "--out", "."]
    folder = tmp_path / "here"
    folder.mkdir()
    assert run("sweep", *small, cwd=folder).returncode == 0
    done = run("report", ".", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here-report" / "report.html").exists()


def test_the_lecture_prints_the_lectures_numbers():
    done = run("lecture")
    assert done.returncode == 0
    assert done.stderr == ""
    for number in ("148.4", "7.4", "0.4", "20.1", "176.3", "0.84203", "0.04192", "0.00209", "0.11396", "1.6094"):
        assert number in done.stdout
    for component in ("+0.3000", "-0.8000", "+0.1000", "+0.4000"):
        assert done.stdout.count(component) == 2  # the analytic one and jax.grad's


def test_reporting_on_nothing_is_one_line(tmp_path):
    done = run("report", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "expected the folder of a sweep" in done.stderr


def test_data_in_the_plane_get_their_decision_regions(tmp_path):
    out = tmp_path / "xor"
    settings = ["--dataset", "xor", "--inits", 5, "--steps", 300, "--scale", 0.5, "--optimizers", "nesterov", "adam"]
    done = run("sweep", *settings, "--learning-rate", 0.05, 0.2, "--record-every", 50, "--out", out)
    assert done.returncode == 0, done.stderr
    done = run("report", out)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "xor-report" / "decision_regions.svg").exists()
    assert "Decision regions" in (tmp_path / "xor-report" / "report.html").read_text()
    ds = store.load(out)
    for name, params in recipe.median_runs(ds).items():
        losses = ds["loss"].sel(optimizer=name).isel(step=-1).values.ravel()
        runs = ds["final_params"].sel(optimizer=name).values.reshape(losses.size, -1)
        chosen = np.flatnonzero((runs == params).all(axis=1))
        assert np.sum(losses < losses[chosen[0]]) == 4  # of ten runs, the fifth


def test_compiled_programs_are_kept_and_the_layout_is_explained(tmp_path):
    """In the user's cache folder, or where jax is told to; the second command reads them and gives the same numbers."""
    ours, theirs = tmp_path / "cache", tmp_path / "elsewhere"
    small = ["--dataset", "iris", "--hidden", 4, "--optimizers", "gd", "--inits", 4, "--steps", 3]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    first = run("sweep", *small, "--out", tmp_path / "a", env=plain | {"XDG_CACHE_HOME": str(ours)})
    assert first.returncode == 0, first.stderr
    assert "on each of" not in first.stderr
    kept = {path.name for path in (ours / "jaxsoft").glob("*-cache")}
    assert kept
    told = plain | {"XDG_CACHE_HOME": str(ours), "JAX_COMPILATION_CACHE_DIR": str(theirs)}
    second = run("sweep", *small, "--out", tmp_path / "b", "--verbose", env=told)
    assert second.returncode == 0, second.stderr
    assert re.search(
        r"^gd: \d+ lanes? .*on each of \d+ devices \(.+\); \d+ such blocks? and \d+ steps a call", second.stderr, re.M
    )
    assert {path.name for path in (ours / "jaxsoft").glob("*-cache")} == kept
    a, b = (store.load(tmp_path / name) for name in "ab")
    np.testing.assert_array_equal(a["loss"], b["loss"])
