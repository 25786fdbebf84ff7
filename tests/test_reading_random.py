"""Random models are read exactly, and with a part that cannot be read, the error names it."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxsnn

import random_graphs
from models import assert_reads
from random_graphs import BAD, IMAGE_SHAPE, random_model

pytestmark = pytest.mark.promotes


@pytest.mark.parametrize("seeds", np.arange(100).reshape(10, 10), ids=lambda s: f"{s[0]}-{s[-1]}")
@pytest.mark.thinned(3)
def test_random_models_are_read(seeds):
    images = np.random.default_rng(0).random((3, *IMAGE_SHAPE), np.float32)
    for seed in seeds:
        assert_reads(random_model(seed), images, rtol=5e-6, least=1.0)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.thinned(3)
def test_a_part_that_cannot_be_read_is_named(name):
    """In 6 random models for each, 204 in all."""
    _, words = BAD[name]
    for seed in range(6):
        with pytest.raises(jaxsnn.ReadingError, match=words) as caught:
            jaxsnn.read_network(random_model(seed, name), jnp.zeros((1, *IMAGE_SHAPE)))
        assert random_graphs.__file__ in str(caught.value), seed
