"""A strict world for every test: implicit rank promotion is an error; x64 only where a test asks for it."""

import os

import jax
import pytest

if jax.__version_info__ < (0, 11):  # a flag of XLA that halves the time to compile; later versions do not know it
    os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false " + os.environ.get("XLA_FLAGS", "")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)


@pytest.fixture(autouse=True, scope="session")
def own_cache_folder(tmp_path_factory):
    """The command line keeps compiled programs in the user's cache folder: here in one of the session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def quick_compilation():
    """Programs that run once are not worth the compiler's optimisations."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
