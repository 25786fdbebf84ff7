"""Gradients through the scan, against finite differences and by lowering a loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsnn

import models

pytestmark = pytest.mark.promotes


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def smooth_spike(potential, threshold):
    """A network of these has a true gradient."""
    return jax.nn.sigmoid(4.0 * (potential / threshold - 1.0))


def double(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


@pytest.mark.parametrize("reset", [jaxsnn.reset_to_zero, jaxsnn.reset_by_subtraction])
@pytest.mark.parametrize("build", [models.dense_network, models.convolution_network])
def test_gradients_of_a_smoothed_network_are_finite_differences(rng, x64, build, reset):
    network, _ = build(rng)
    snn = double(jaxsnn.balance_thresholds(network, 2.0))
    images = jnp.asarray(models.dyadic_images(rng, 2, *network.input_shape), jnp.float64)
    start = [jnp.full((), 0.1) for _ in network.layers]

    @jax.jit
    def loss(parameters):
        snn, start = parameters
        run = jaxsnn.simulate(
            snn,
            images,
            key=0,
            duration=0.006,
            encode=jaxsnn.constant,
            spike=smooth_spike,
            reset=reset,
            initial_potential=start,
        )
        return jnp.sum(run.spike_counts[-1] ** 2)

    gradient = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))((snn, start)))
    point = jax.tree.map(np.asarray, (snn, start))
    for seed in range(3):
        draw = np.random.default_rng(seed).normal
        direction = jax.tree.map(lambda leaf, draw=draw: np.asarray(draw(size=leaf.shape)), point)

        def along(step, direction=direction):
            return loss(jax.tree.map(lambda p, d: p + step * d, point, direction))

        expected = (along(1e-6) - along(-1e-6)) / 2e-6
        found = jax.tree.reduce(np.add, jax.tree.map(np.vdot, gradient, direction))
        # Central differences: error of the order of step² and of rounding over step.
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_gradients_reach_weights_thresholds_amplitudes_and_potentials(rng):
    network, _ = models.dense_network(rng)
    snn = jaxsnn.balance_thresholds(network, 2.0)
    images = models.dyadic_images(rng, 4, *network.input_shape)

    def loss(snn, start):
        run = jaxsnn.simulate(snn, images, key=0, duration=0.02, initial_potential=start)
        return jnp.sum(run.spike_counts[-1] ** 2)

    start = [jnp.zeros(()) for _ in network.layers]
    found, of_start = jax.grad(loss, argnums=(0, 1))(snn, start)
    leaves = jax.tree.leaves((found, of_start))
    assert len(leaves) == 3 + 3 + 2 + 3  # what the input weighs is fixed
    for leaf in leaves:
        assert np.isfinite(leaf).all()
        assert np.any(leaf)


def test_weight_form_and_threshold_form_have_the_same_gradients(rng):
    network, _ = models.dense_network(rng)
    images = models.dyadic_images(rng, 4, *network.input_shape)
    scales = jnp.array([2.0, 4.0, 2.0])

    def loss(network, form):
        run = jaxsnn.simulate(form(network, scales), images, key=0, duration=0.02)
        return jnp.sum(run.spike_counts[-1] ** 2)

    one = jax.grad(loss)(network, jaxsnn.normalize_weights)
    two = jax.grad(loss)(network, jaxsnn.balance_thresholds)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


def test_the_forward_pass_is_the_step_whatever_the_surrogate(rng):
    network, _ = models.dense_network(rng)
    images = models.dyadic_images(rng, 4, *network.input_shape)
    snn = jaxsnn.balance_thresholds(network, 2.0)
    counts = [
        jaxsnn.simulate(
            snn, images, key=0, duration=0.02, spike=jaxsnn.step_function(surrogate)
        ).spike_counts
        for surrogate in (jaxsnn.fast_sigmoid(1.0), lambda x: jnp.exp(-(x**2)))
    ]
    for a, b in zip(*counts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_through_the_spikes_lowers_a_loss(rng):
    network, _ = models.dense_network(rng, (8, 24, 3))
    images = models.dyadic_images(rng, 30, 8)
    labels = images[:, :6].reshape(-1, 3, 2).sum(2).argmax(1)
    snn = jaxsnn.balance_thresholds(network, 1.0)

    def loss(snn):
        run = jaxsnn.simulate(snn, images, key=0, duration=0.02)
        rates = run.spike_counts[-1] / 20
        return optax.softmax_cross_entropy_with_integer_labels(8 * rates, labels).mean()

    optimizer = optax.adam(0.02)
    state = optimizer.init(snn)

    @jax.jit
    def step(snn, state):
        value, gradient = jax.value_and_grad(loss)(snn)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(snn, updates), state, value

    losses = []
    for _ in range(41):
        snn, state, value = step(snn, state)
        losses.append(float(value))
    run = jaxsnn.simulate(snn, images, key=1, duration=0.02)
    assert losses[-1] < 0.6 * losses[0]
    assert float(run.accuracy(labels)[-1]) > 0.8
