"""What is asked of the machine, and that programs still run where it says nothing."""

import jax
import numpy as np
import pytest

from jaxsoft import axes, machine, program


def described(folder, *indexes):
    for number, (level, size, shared) in enumerate(indexes):
        index = folder / f"index{number}"
        index.mkdir()
        for name, said in (("level", level), ("size", size), ("shared_cpu_list", shared)):
            (index / name).write_text(f"{said}\n")
    return folder


@pytest.mark.parametrize(("shared", "cores"), [("0", 1), ("0,64", 2), ("0-3", 4), ("0-1,8-9", 4)])
def test_a_cores_part_of_its_second_level_cache_is_found(shared, cores, tmp_path):
    described(tmp_path, (1, "48K", "0"), (1, "32K", "0"), (2, "1280K", shared), (3, "36M", "0-15"))
    assert machine.cache_bytes(tmp_path) == 1280 * 1024 // cores


@pytest.mark.parametrize("said", [[], [(1, "48K", 0)], [(2, "a lot", 0)], [("two", "2M", 0)], [(2, "2M", "all")]])
def test_where_the_system_does_not_say_a_size_is_assumed(said, tmp_path):
    assert machine.cache_bytes(described(tmp_path, *said)) == machine.ASSUMED_CACHE


def test_an_accelerator_gets_no_options_for_a_cpu():
    assert machine.compiler_options("cpu")
    assert not machine.compiler_options("gpu")


@pytest.mark.parametrize("known", [True, False])
def test_a_compiler_that_does_not_know_the_options_is_asked_without(known, monkeypatch):
    """The same numbers from either: elementwise arithmetic does not depend on how wide the registers are."""
    monkeypatch.setattr(machine, "_WIDE", machine._WIDE if known else {"xla_cpu_no_such_option": "1"})
    monkeypatch.setattr(machine, "compiler_options", machine.compiler_options.__wrapped__)
    monkeypatch.setattr(program, "_COMPILED", type(program._COMPILED)())
    assert bool(machine.compiler_options("cpu")) == known
    from jaxsoft import process, sweep

    def step(x):
        return 0.5 * x, process.Info(jax.numpy.zeros((), jax.numpy.int32), {"x": x}, {})

    ds = sweep.run(process.Process(lambda key: jax.numpy.ones(()), step), {"run": axes.Seeds(3)}, seed=0, steps=4)
    np.testing.assert_array_equal(ds["x"].to_numpy(), np.tile(0.5 ** np.arange(5.0), (3, 1)))
