"""Results on disk survive what happens to programs: kill -9, Ctrl-C, a full disk, a wrong command, another writer."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import optax
import pytest
import xarray as xr

from jaxsoft import problem, store, sweep, train
from jaxsoft.store import Store

# A sweep that takes a few seconds, so that a signal finds it at work: 2 kinds, 24 chunks.
SCRIPT = textwrap.dedent(
    """
    import sys
    import jax, optax
    jax.config.update("jax_num_cpu_devices", 2)
    from jaxsoft import problem, program, sweep, train
    program.SEGMENT_FLOPS = 2e4  # many short segments

    def process(kind, eta):
        transform = {"gd": optax.sgd, "adam": optax.adam}[kind](eta)
        return train.make_train(problem.quadratic([-1.0, 1.0, 2.0], 1e-3), transform, keep_params=True)

    try:
        sweep.run(process, {"kind": ["gd", "adam"], "eta": [0.01, 0.02], "run": sweep.Seeds(48)},
                  seed=0, steps=900, record_every=3, out=sys.argv[1], width=4, chunk=8, progress=True)
    except sweep.Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)
    """
)
VARIABLES = ("loss", "grad_norm", "status", "steps", "final_params", "committed")


def launch(out):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(out)], stderr=subprocess.PIPE, text=True)


def committed(out):
    try:
        return int(store.load(out)["committed"].sum())
    except (ValueError, FileNotFoundError, KeyError):
        return 0


def wait_until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def assert_bitwise_equal(a, b):
    assert set(a.data_vars) == set(b.data_vars)
    for name in VARIABLES:
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    process = launch(out)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "192/192 runs" in said  # plain lines where there is no terminal
    return store.load(out).load()


def test_a_plain_xarray_opens_it_labelled(uninterrupted, tmp_path):
    out = tmp_path / "run"
    surface = problem.quadratic([1.0])
    ds = sweep.run(
        lambda eta: train.make_train(surface, optax.sgd(eta)),
        {"run": sweep.Seeds(2), "eta": [0.1, 0.2, 0.3]},
        seed=0,
        steps=3,
        out=out,
    )
    plain = xr.open_zarr(out, consolidated=False)
    assert dict(plain.sizes) == {"run": 2, "eta": 3, "step": 4}
    assert plain["eta"].values.tolist() == [0.1, 0.2, 0.3]
    xr.testing.assert_equal(plain["loss"].transpose(*ds["loss"].dims), ds["loss"])
    assert json.loads((out / "zarr.json").read_text())["zarr_format"] == 3


def test_killed_at_any_moment_it_resumes_to_the_same_bits(uninterrupted, tmp_path):
    out = tmp_path / "run"
    rng = np.random.default_rng(0)
    for goal in (1, 60, 130):
        process = launch(out)
        wait_until(lambda goal=goal: committed(out) >= goal)
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        process.communicate()
        partly = store.load(out)
        done = partly["committed"].values
        assert goal <= done.sum()
        # What is flagged is whole, already now.
        np.testing.assert_array_equal(partly["loss"].values[done], uninterrupted["loss"].values[done])
        np.testing.assert_array_equal(partly["final_params"].values[done], uninterrupted["final_params"].values[done])
    process = launch(out)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert_bitwise_equal(store.load(out), uninterrupted)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_work_says_how_to_resume_and_resumes(uninterrupted, tmp_path, signum, code):
    out = tmp_path / "run"
    process = launch(out)
    wait_until(lambda: committed(out) >= 20)
    process.send_signal(signum)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "run the same command to resume" in said
    assert 20 <= committed(out) < 192
    # The chunk in hand is kept too, unless the signal came while it was being committed.
    kept = (tmp_path / "run.partial.npz").exists()
    process = launch(out)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert kept
    assert not (tmp_path / "run.partial.npz").exists()
    assert_bitwise_equal(store.load(out), uninterrupted)


def small(eta):
    return train.make_train(problem.quadratic([1.0, 2.0]), optax.sgd(eta))


def run_small(out, process=small, **changes):
    arguments = {"axes": {"eta": [0.1, 0.2], "run": sweep.Seeds(4)}, "seed": 0, "steps": 6, "config": {"note": "a"}}
    return sweep.run(process, out=out, **(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 1}, "seed: the store has 0, this command 1"),
        ({"steps": 7}, "steps: the store has 6, this command 7"),
        ({"record_every": 2}, "record_every: the store has 1, this command 2"),
        ({"config": {"note": "b"}}, "config.note: the store has a, this command b"),
        ({"axes": {"eta": [0.1, 0.3], "run": sweep.Seeds(4)}}, r"axes.eta: the store has \[0.1, 0.2\]"),
        ({"axes": {"eta": [0.1, 0.2], "run": sweep.Seeds(5)}}, "axes.run.seeds: the store has 4, this command 5"),
    ],
)
def test_another_configuration_is_refused_and_the_difference_said(tmp_path, changes, difference):
    out = tmp_path / "run"
    before = run_small(out).load()
    with pytest.raises(ValueError, match=difference):
        run_small(out, **changes)
    assert_same_loss(before, out)


def assert_same_loss(before, out):
    np.testing.assert_array_equal(store.load(out)["loss"], before["loss"])


def test_another_process_another_type_or_another_version_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "run"
    before = run_small(out).load()

    def other(eta):
        return train.make_train(problem.quadratic([1.0, 2.5]), optax.sgd(eta))

    with pytest.raises(ValueError, match=r"program.*: the store has [0-9a-f]{16}, this command [0-9a-f]{16}"):
        run_small(out, process=other)
    import jax

    with jax.enable_x64(True), pytest.raises(ValueError, match="dtype: the store has float32, this command float64"):
        run_small(out)
    monkeypatch.setattr(sweep, "_versions", lambda *names: dict.fromkeys(names, "0.0"))
    with pytest.raises(ValueError, match=r"versions.jax: the store has .*, this command 0.0"):
        run_small(out)
    assert_same_loss(before, out)


def test_work_kept_for_another_sweep_is_not_taken_up(tmp_path):
    out = tmp_path / "run"
    with Store(out, {"seed": 0}, {}) as first:
        first.save_partial({"mark": np.array([0, 0])})
    assert first.load_partial() is not None
    assert Store(out, {"seed": 1}, {}).load_partial() is None
    first.drop_partial()
    assert first.load_partial() is None


def test_the_same_command_again_does_nothing_and_returns_the_same(tmp_path):
    out = tmp_path / "run"
    before = run_small(out).load()
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("c/*") if path.is_file()}
    again = run_small(out)
    xr.testing.assert_identical(before, again.load())
    assert stamps == {path: path.stat().st_mtime_ns for path in out.rglob("c/*") if path.is_file()}


def test_memory_and_disk_hold_the_same(tmp_path):
    on_disk, in_memory = run_small(tmp_path / "run").load(), run_small(None)
    xr.testing.assert_equal(on_disk, in_memory)


def test_a_second_writer_is_refused(tmp_path):
    out = tmp_path / "run"
    with (
        Store(out, {"a": 1}, {}),
        pytest.raises(ValueError, match="is being written by another process"),
        Store(out, {"a": 1}, {}),
    ):
        pass
    run_small(tmp_path / "other")  # the lock goes with its holder
    run_small(tmp_path / "other")


def test_what_is_not_ours_is_left_alone(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match="out: expected a folder, got the file"):
        run_small(file)
    with pytest.raises(ValueError, match=r"part of .* is a file"):
        run_small(file / "deeper")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'thesis.tex'"):
        run_small(folder)
    zarr_of_others = tmp_path / "zarr"
    xr.Dataset({"a": ("x", [1, 2])}).to_zarr(zarr_of_others, consolidated=False)
    with pytest.raises(ValueError, match="expected an empty folder or a store of this program"):
        run_small(zarr_of_others)
    assert file.read_text() == "mine"
    assert (folder / "thesis.tex").read_text() == "mine"
    assert xr.open_zarr(zarr_of_others, consolidated=False)["a"].values.tolist() == [1, 2]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match="out: expected a writable folder, cannot write to"):
        run_small(tmp_path / "run")


def test_a_full_disk_leaves_a_readable_store_that_resumes(tmp_path, monkeypatch):
    out = tmp_path / "run"
    whole = Store._write
    calls = 0

    def full_after_two(self, name, *arguments):
        nonlocal calls
        calls += name == "steps"
        if calls > 2:  # in the middle of the third chunk
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(self, name, *arguments)

    monkeypatch.setattr(Store, "_write", full_after_two)
    with pytest.raises(OSError, match=r"no space left for .*; every committed run is kept and readable"):
        run_small(out, width=1, chunk=2)
    monkeypatch.setattr(Store, "_write", whole)
    partly = store.load(out)
    assert int(partly["committed"].sum()) == 4
    done = partly["committed"].values
    np.testing.assert_array_equal(run_small(out, width=1, chunk=2)["loss"].values[done], partly["loss"].values[done])
    np.testing.assert_array_equal(store.load(out)["loss"], run_small(None, width=1, chunk=2)["loss"])


@pytest.mark.parametrize("break_it", ["missing", "empty", "truncated", "other"])
def test_reading_what_is_no_store_is_one_clear_line(tmp_path, break_it):
    out = tmp_path / "run"
    expected = ValueError
    if break_it == "missing":
        expected = FileNotFoundError
    elif break_it == "empty":
        out.mkdir()
    else:
        run_small(out)
        text = (out / "zarr.json").read_text()
        (out / "zarr.json").write_text(text[:50] if break_it == "truncated" else "[1, 2]")
    with pytest.raises(expected, match="run: expected the folder of a sweep"):
        store.load(out)


@pytest.mark.parametrize("damage", ["cut", "gone", "label gone", "flags gone"])
def test_a_damaged_store_is_said_in_one_line(tmp_path, damage):
    out = tmp_path / "run"
    run_small(out)
    victim = {"cut": "loss", "gone": "loss", "label gone": "eta", "flags gone": "committed"}[damage]
    if damage == "cut":
        for chunk in (out / victim / "c").rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(b"12345")
    else:
        shutil.rmtree(out / victim / "c" if damage == "gone" else out / victim)
    with pytest.raises(ValueError, match=r"run: the store .* is damaged"):
        store.verify(store.load(out), out)


def test_another_programs_partial_file_is_left_alone(tmp_path):
    out, other = tmp_path / "run", tmp_path / "run.partial.npz"
    for content in (b"", b"mine"):
        other.write_bytes(content)
        with pytest.raises(ValueError, match=r"out: expected .*run.partial.npz to be kept by an interrupted sweep"):
            run_small(out)
        assert other.read_bytes() == content


MEMORY_SCRIPT = textwrap.dedent(
    """
    import resource, sys
    import jax, optax
    from jaxsoft import problem, sweep, train
    lanes, out = int(sys.argv[1]), sys.argv[2]
    process = lambda: train.make_train(problem.quadratic([-1.0, 1.0], 1e-3), optax.sgd(0.01))
    ds = sweep.run(process, {"run": sweep.Seeds(lanes)}, seed=0, steps=2000, chunk=1024, out=out)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    """
)


def test_memory_does_not_grow_with_the_number_of_runs(tmp_path):
    def peak(lanes):
        command = [sys.executable, "-c", MEMORY_SCRIPT, str(lanes), str(tmp_path / str(lanes))]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)

    few, many = 2 * 1024, 16 * 1024
    records = (many - few) * 2001 * 2 * 4 / 2**20  # MiB of losses and gradient norms that must not be held: 219
    assert peak(many) - peak(few) < records / 4
