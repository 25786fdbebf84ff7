"""The fused update reduces to integrate-and-fire, step after step, bit for bit."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsnn
from jaxsnn import neurons
from jaxsnn.pallas_update import _rows, fused_update

RESETS = [jaxsnn.reset_to_zero, jaxsnn.reset_by_subtraction]
# One block, blocks that end at the edges of the arrays and beyond them, one neuron.
SHAPES = [(1, 2, 3), (3, 256, 256), (3, 300, 130), (3, 1, 1)]


# Without the check of its types, which are floats while potentials may be integers.
integrate_and_fire = inspect.unwrap(neurons.integrate_and_fire)


@partial(jax.jit, static_argnames="reset")
def one_by_one(potential, currents, threshold, *, reset):
    """A scan over the steps."""

    def step(state, current):
        return integrate_and_fire(state, current, threshold, reset=reset, spike=neurons.heaviside)

    state, spikes = jax.lax.scan(step, neurons.NeuronState(potential, None), currents)
    return state.potential, spikes


def drawn(rng, shape, dtype):
    """Potentials, currents and thresholds of which many are met exactly."""
    numbers = [rng.integers(-3, 9, size) for size in (shape[1:], shape)]
    unit = dtype(0.3) if dtype == np.float32 else dtype(1)
    thresholds = rng.integers(3, 12, shape[2])
    return [jnp.asarray(dtype(x) * unit) for x in (*numbers, thresholds)]


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_integrate_and_fire(rng, shape, dtype, reset):
    given = drawn(rng, shape, dtype)
    expected = one_by_one(*given, reset=reset)
    found = fused_update(*given, reset=reset, interpret=True)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        np.testing.assert_array_equal(one, other)
    assert 0 < float(found[1].astype(float).mean()) < 1 or shape[1] * shape[2] < 10


@pytest.mark.parametrize("reset", RESETS)
def test_integers_are_exact_to_the_largest_potential(reset):
    largest = 1 << 30
    given = jnp.full((1, 2), largest - 1, jnp.int32), jnp.full((2, 1, 2), 1, jnp.int32)
    potential, spikes = fused_update(*given, largest, reset=reset, interpret=True)
    assert spikes[:, 0].tolist() == [[1, 1], [0, 0]]
    assert potential.tolist() == [[1, 1]]


@pytest.mark.parametrize("steps", [1, 8, 20, 100, 1000])
@pytest.mark.parametrize("batch", [1, 7, 256, 1000])
def test_blocks_fit_into_fast_memory(steps, batch):
    rows = _rows(steps, batch)
    assert rows == batch or rows % 8 == 0
    assert 2 * 2 * 4 * steps * rows * 128 <= 16 << 20


def test_a_chunk_in_two_parts_is_the_chunk(rng):
    potential, currents, threshold = drawn(rng, (6, 9, 140), np.float32)
    update = partial(fused_update, reset=jaxsnn.reset_to_zero, interpret=True)
    whole, spikes = update(potential, currents, threshold)
    half, first = update(potential, currents[:2], threshold)
    end, second = update(half, currents[2:], threshold)
    np.testing.assert_array_equal(end, whole)
    np.testing.assert_array_equal(jnp.concatenate([first, second]), spikes)


def test_it_can_be_mapped_over_a_sweep(rng):
    potential, currents, threshold = drawn(rng, (4, 5, 130), np.int32)
    thresholds = jnp.stack([threshold, 2 * threshold])
    update = partial(fused_update, reset=jaxsnn.reset_by_subtraction, interpret=True)
    together = jax.vmap(update, (None, None, 0))(potential, currents, thresholds)
    for index, one in enumerate(thresholds):
        for found, expected in zip(together, update(potential, currents, one), strict=True):
            np.testing.assert_array_equal(found[index], expected)
