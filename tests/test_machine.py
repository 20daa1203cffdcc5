"""What is asked of the machine, and that programs still run where it says nothing."""

import jax
import numpy as np
import pytest

from jaxsoft import axes, machine, process, program, sweep


def described(folder, *indexes):
    for number, (level, size, shared, *kind) in enumerate(indexes):
        index = folder / f"index{number}"
        index.mkdir()
        said = {"level": level, "size": size, "shared_cpu_list": shared, "type": kind[0] if kind else "Unified"}
        for name, value in said.items():
            (index / name).write_text(f"{value}\n")
    return folder


@pytest.mark.parametrize(("shared", "cores"), [("0", 1), ("0,64", 2), ("0-3", 4), ("0-1,8-9", 4)])
def test_a_cores_part_of_its_second_level_cache_is_found(shared, cores, tmp_path):
    described(
        tmp_path,
        (1, "48K", "0"),
        (1, "32K", "0"),
        (2, "64K", "0", "Instruction"),
        (2, "1280K", shared),
        (3, "36M", "0-15"),
    )
    assert machine.cache_bytes(tmp_path) == 1280 * 1024 // cores


@pytest.mark.parametrize(
    "said",
    [
        [],
        [(1, "48K", 0)],
        [(2, "a lot", 0)],
        [("two", "2M", 0)],
        [(2, "2M", "all")],
        [(2, "0K", 0)],
        [(2, "1K", "0-2047")],
    ],
)
def test_where_the_system_does_not_say_a_size_is_assumed(said, tmp_path):
    assert machine.cache_bytes(described(tmp_path, *said)) == machine.ASSUMED_CACHE


def test_an_accelerator_gets_no_options_for_a_cpu(monkeypatch):
    monkeypatch.setattr(machine, "compiler_options", machine.compiler_options.__wrapped__)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert machine.compiler_options("cpu")
    assert not machine.compiler_options("gpu")


def test_what_the_user_asks_of_the_compiler_stands(monkeypatch):
    monkeypatch.setattr(machine, "compiler_options", machine.compiler_options.__wrapped__)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_prefer_vector_width=128")
    assert not machine.compiler_options("cpu")


def halves():
    def step(x):
        return 0.5 * x, process.Info(jax.numpy.zeros((), jax.numpy.int32), {"x": x}, {})

    return process.Process(lambda key: jax.numpy.ones(()), step)


def test_programs_are_compiled_with_the_options(monkeypatch):
    """Told a wrong one, the compiler refuses."""
    monkeypatch.setattr(machine, "compiler_options", lambda platform: {"xla_cpu_no_such_option": "1"})
    monkeypatch.setattr(program, "_COMPILED", type(program._COMPILED)())
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_cpu_no_such_option"):
        sweep.run(halves(), {"run": axes.Seeds(3)}, seed=0, steps=4)


@pytest.mark.parametrize("known", [True, False])
def test_a_compiler_that_does_not_know_the_options_is_asked_without(known, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(machine, "_WIDE", machine._WIDE if known else {"xla_cpu_no_such_option": "1"})
    monkeypatch.setattr(machine, "compiler_options", machine.compiler_options.__wrapped__)
    monkeypatch.setattr(program, "_COMPILED", type(program._COMPILED)())
    assert bool(machine.compiler_options("cpu")) == known
    ds = sweep.run(halves(), {"run": axes.Seeds(3)}, seed=0, steps=4)
    np.testing.assert_array_equal(ds["x"].to_numpy(), np.tile(0.5 ** np.arange(5.0), (3, 1)))
