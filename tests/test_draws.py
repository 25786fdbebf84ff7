"""Random bits: published vectors, JAX's own Threefry, and the same draws in both engines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend import random as jax_random

import jaxsnn
from jaxsnn.engines.events import kernels
from jaxsnn.support import random as draws

import reference

WORD = st.integers(0, 2**32 - 1)


def by_jax(key, counter):
    """Of this library, in words of JAX."""
    words = draws.threefry(tuple(map(jnp.uint32, key)), *map(jnp.uint32, counter))
    return tuple(map(int, words))


def by_numba(key, counter):
    return tuple(map(int, kernels.threefry(*map(np.uint32, (*key, *counter)))))


# From the file kat_vectors of Random123, threefry2x32 with 20 rounds.
VECTORS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize("threefry", [by_jax, by_numba, reference.threefry])
@pytest.mark.parametrize(("key", "counter", "words"), VECTORS)
def test_the_vectors_of_random123(threefry, key, counter, words):
    assert threefry(key, counter) == words


@given(key=st.tuples(WORD, WORD), counter=st.tuples(WORD, WORD))
@settings(max_examples=50, deadline=None)
def test_threefry_is_that_of_jax(key, counter):
    theirs = jax_random.threefry_2x32(np.array(key, np.uint32), np.array(counter, np.uint32))
    assert by_jax(key, counter) == by_numba(key, counter) == tuple(map(int, theirs))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 13])
def test_draws_of_16_bits_are_halves_of_the_words(count):
    key = jax.random.key(17)
    expected = reference.bits_16(tuple(jax.random.key_data(key).tolist()), count)
    assert draws.bits_16(key, count).tolist() == expected.tolist()


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_keys_of_samples_are_those_that_jax_folds(seed):
    numbers = np.array([0, 3, 2**31 - 1])
    found = draws.sample_keys(seed, numbers)
    for sample, words in zip(numbers.tolist(), found.tolist(), strict=True):
        assert tuple(words) == reference.threefry((0, seed), (0, sample))
        key = jax.random.fold_in(jax.random.key(seed), sample)
        assert words == jax.random.key_data(key).tolist()


@pytest.mark.parametrize("samples", [[7], [0, 1, 2**31 - 1]])
@pytest.mark.parametrize(
    "key",
    [5, np.int64(2**32 - 1), jnp.int32(5), jax.random.key(5), jax.random.PRNGKey(2**31 + 5)],
    ids=["seed", "seed of NumPy", "seed of JAX", "key", "words"],
)
@pytest.mark.thinned(3)
def test_keys_are_the_same_by_numpy_and_traced(key, samples):
    """On the host no program is compiled for them, whatever the number of samples."""
    numbers = np.array(samples, np.int32)
    known = draws.sample_keys(key, numbers)
    assert isinstance(known, np.ndarray)
    assert known.shape == (len(samples), 2)
    assert known.dtype == np.uint32
    assert known.flags.c_contiguous
    assert known.flags.writeable
    traced = [
        jax.jit(draws.sample_keys)(jnp.asarray(key), numbers),
        jax.jit(lambda numbers: draws.sample_keys(key, numbers))(numbers),
        jax.vmap(lambda number: draws.sample_keys(key, number[None])[0])(numbers),
    ]
    for found in traced:
        np.testing.assert_array_equal(found, known)


@pytest.mark.parametrize("inputs", [1, 2, 3, 5, 13])
def test_the_events_draw_the_inputs_of_the_oracle(inputs):
    """Also where many pixels are black, whose blocks are left out, or mostly spike.

    That the scan does so too is seen by the tests of fixed point.
    """
    rng = np.random.default_rng(inputs)
    images = rng.choice([0.0, 0.0, 0.3, 0.5, 0.8, 1.0], (4, inputs)).astype(np.float32)
    network = jaxsnn.read_network(
        lambda x: jax.nn.relu(x @ np.ones((inputs, 1), np.float32)), images
    )
    fixed = jaxsnn.quantize(jaxsnn.balance_thresholds(network, 1000.0))
    steps, seed, samples = 12, 5, np.array([8, 1, 0, 77])
    for rate in (1000.0, 300.0):
        run = jaxsnn.simulate(
            fixed,
            images,
            key=seed,
            samples=samples,
            duration=steps * 1e-3,
            max_rate=rate,
            engine="events",
        )
        probabilities = images * np.float32(rate * 1e-3)
        expected = reference.poisson_spikes(seed, samples.tolist(), steps, probabilities)
        np.testing.assert_array_equal(run.input_spike_counts, expected.sum(0))
        weight = int(fixed.network.layers[0].weights[0][0, 0])
        potential = weight * expected.sum((0, 2))
        np.testing.assert_array_equal(run.state.neurons[0].potential[:, 0], potential)


def test_the_events_round_probabilities_to_the_nearest():
    """Around each draw of the first step: a pixel that is just not enough, and one that just is."""
    inputs, samples = 13, 20
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x * np.float32(2)), np.zeros((1, inputs)))
    fixed = jaxsnn.quantize(jaxsnn.balance_thresholds(network, 1.0))
    taken = [
        reference.bits_16(reference.threefry(reference.threefry((0, 9), (0, i)), (0, 0)), inputs)
        for i in range(samples)
    ]
    for more, spikes in ((0.4, 0), (0.6, 1)):
        images = ((np.stack(taken) + more) / 65536).astype(np.float32)
        run = jaxsnn.simulate(fixed, images, key=9, duration=1e-3, engine="events")
        assert run.input_spike_counts.tolist() == [[spikes] * inputs] * samples


@pytest.mark.parametrize("count", [1, 6, 7])
def test_probabilities_are_rounded_to_16_bits(count):
    """An input spikes where its draw is below round(65536·p): at most 1/131072 off."""
    key = jax.random.key(3)
    taken = reference.bits_16(tuple(jax.random.key_data(key).tolist()), count)
    for probability in (0.0, 1e-9, 1 / 131072, 1.01 / 131072, 0.25, 0.3, 1 - 1 / 131071, 1.0):
        p = np.full(count, probability, np.float32)
        wanted = np.rint(np.float64(p) * 65536)
        assert np.all(np.abs(wanted / 65536 - p) <= 1 / 131072)
        assert jaxsnn.poisson(key, jnp.asarray(p)).tolist() == (taken < wanted).tolist()
    # Around the draws themselves, where one step more of 65536 decides.
    below, above = (jnp.asarray((taken + more) / 65536, jnp.float32) for more in (0, 1))
    assert jaxsnn.poisson(key, below).tolist() == [0.0] * count
    assert jaxsnn.poisson(key, above).tolist() == [1.0] * count


def test_zero_and_one_are_exact():
    """Among 2^20 draws are all 65536 values, the lowest and the highest."""
    key, count = jax.random.key(0), 1 << 20
    assert len(np.unique(draws.bits_16(key, count))) == 1 << 16
    assert float(jaxsnn.poisson(key, jnp.zeros(count)).sum()) == 0
    assert float(jaxsnn.poisson(key, jnp.ones(count)).sum()) == count


def test_draws_are_uniform_and_fair():
    """Counts of each bit, and of 256 bins, in each quarter of the draws, within 5 σ."""
    count = 1 << 20
    quarters = np.asarray(draws.bits_16(jax.random.key(1), count)).reshape(4, -1)
    n = quarters.shape[1]
    for draw in quarters:
        for bit in range(16):
            ones = int((draw >> bit & 1).sum())
            assert abs(ones - n / 2) < 5 * np.sqrt(n / 4)
        expected = n / 256
        chi_squared = ((np.bincount(draw >> 8, minlength=256) - expected) ** 2 / expected).sum()
        assert abs(chi_squared - 255) < 5 * np.sqrt(2 * 255)
    for one in range(4):
        for other in range(one):
            product = np.corrcoef(quarters[one], quarters[other])[0, 1]
            assert abs(product) < 5 / np.sqrt(n)


def test_a_draw_depends_on_key_sample_and_step_alone():
    images = np.full((3, 5), 0.5, np.float32)
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ np.ones((5, 1), np.float32)), images)
    fixed = jaxsnn.quantize(jaxsnn.balance_thresholds(network, 1.0))

    def counts(key, samples):
        run = jaxsnn.simulate(fixed, images, key=key, samples=samples, duration=0.5)
        return run.input_spike_counts

    whole = counts(0, [0, 1, 2])
    np.testing.assert_array_equal(counts(0, [2, 0, 1]), whole[np.array([2, 0, 1])])
    others = [whole, counts(1, [0, 1, 2]), counts(0, [3, 4, 5])]
    assert len(np.unique(np.concatenate(others), axis=0)) == 9
