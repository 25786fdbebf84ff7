"""Settings of all tests: checked array types, and where the data come from."""

import functools
import os
from pathlib import Path

import jax
import matplotlib
import numpy as np
import pytest
from flax import linen, nnx
from jaxtyping import install_import_hook

# Every annotated shape of the library is checked while the tests run.
install_import_hook("jaxsnn", "typechecker.checked")

matplotlib.use("Agg")

# What promotes types or ranks implicitly says more than it means.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def promoting(function):
    """A function of another library, which relies on implicit promotion."""

    @functools.wraps(function)
    def called(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*args, **kwargs)

    return called


for _module in (linen, nnx):  # it divides by an integer
    _module.avg_pool = promoting(_module.avg_pool)

SHARED_ARCHIVES = Path(__file__).parents[2] / "shared" / "data" / "mnist"
if "JAXSNN_ARCHIVES" not in os.environ and SHARED_ARCHIVES.is_dir():
    os.environ["JAXSNN_ARCHIVES"] = str(SHARED_ARCHIVES)


@pytest.fixture
def rng():
    return np.random.default_rng(20150712)
