"""Gradients through the scan, against finite differences and by lowering a loss."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from surrogates import CHANGES, changed

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
@pytest.mark.thinned(3)
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


# -- Whether surrogate gradients point the right way -----------------------------------------------


def residual_model(rng, depth=4, width=32):
    """Logits of a deep network with biases, with a ReLU after each residual sum."""
    first, last = (rng.normal(0, 1 / np.sqrt(a), (a, b)) for a, b in ((12, width), (width, 4)))
    blocks = rng.normal(0, 0.7 / np.sqrt(width), (depth, 2, width, width))
    biases = rng.normal(0, 0.1, (depth, 2, width))

    def model(x):
        x = jax.nn.relu(x @ first + 0.1)
        for (one, two), (a, b) in zip(blocks, biases):
            x = jax.nn.relu(x + jax.nn.relu(x @ one + a) @ two + b)
        return x @ last + 0.1

    return model


# With the reset to zero, what a scale factor changes nearly cancels, and so does what an initial
# potential changes once it is forgotten: there, differences are as small as their errors.
RIGHT = {
    jaxsnn.reset_by_subtraction: (0.9, tuple(CHANGES)),
    jaxsnn.reset_to_zero: (0.75, ("thresholds", "weights", "biases")),
}


@pytest.mark.parametrize("reset", RIGHT)
@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.thinned(4)
def test_gradients_point_where_the_loss_falls(rng, depth, reset):
    """The default surrogate, against differences of the loss of the hard network."""
    images = rng.uniform(0, 1, (300, 12)).astype(np.float32)
    network = jaxsnn.read_network(residual_model(rng, depth), images)
    scales = 1.25 * jaxsnn.percentile_scales(network, images, percentile=100)
    snn = jaxsnn.balance_thresholds(network, scales, reset=reset, encode=jaxsnn.constant)
    expected = network(images)

    @jax.jit
    def loss(by):
        run = jaxsnn.simulate(changed(snn, 0.0, by), images, key=0, duration=0.01)
        return jnp.mean((run.scores[-1] / 10 - expected) ** 2)

    nothing = {name: jnp.zeros(len(network.layers)) for name in CHANGES}
    gradient = jax.jit(jax.grad(loss))(nothing)
    least, names = RIGHT[reset]
    for name in names:
        reach = CHANGES[name]
        steps = reach * np.eye(len(network.layers), dtype=np.float32)
        up, down = ([loss({**nothing, name: step}) for step in part] for part in (steps, -steps))
        found, wanted = np.asarray(gradient[name]), (np.array(up) - np.array(down)) / (2 * reach)
        assert found @ wanted > least * np.linalg.norm(found) * np.linalg.norm(wanted), name


@pytest.mark.slow
def test_a_narrow_surrogate_may_point_the_wrong_way(rng):
    """What the test above would not let pass: the scale factors of the first default."""
    images = rng.uniform(0, 1, (300, 12)).astype(np.float32)
    network = jaxsnn.read_network(residual_model(rng, 4), images)
    scales = 1.25 * jaxsnn.percentile_scales(network, images, percentile=100)
    reset = jaxsnn.reset_by_subtraction
    snn = jaxsnn.balance_thresholds(network, scales, reset=reset, encode=jaxsnn.constant)
    expected = network(images)

    @jax.jit
    def loss(factors):
        nothing = {name: jnp.zeros(len(network.layers)) for name in CHANGES}
        by = {**nothing, "scale factors": factors}
        narrow = jaxsnn.step_function(jaxsnn.fast_sigmoid(10.0))
        run = jaxsnn.simulate(changed(snn, 0.0, by), images, key=0, duration=0.01, spike=narrow)
        return jnp.mean((run.scores[-1] / 10 - expected) ** 2)

    gradient = np.asarray(jax.grad(loss)(jnp.zeros(len(network.layers))))
    steps = 0.25 * np.eye(len(network.layers), dtype=np.float32)
    wanted = np.array([loss(step) - loss(-step) for step in steps])
    assert gradient @ wanted < 0


# -- Their cost ------------------------------------------------------------------------------------


def loops(jaxpr, within=False):
    """The primitives of a program, each with whether it is in a loop."""
    for equation in jaxpr.eqns:
        inside = within or equation.primitive.name in ("scan", "while")
        yield equation.primitive.name, inside
        for body in jax.extend.core.jaxprs_in_params(equation.params):
            yield from loops(body, inside)


@pytest.mark.parametrize("engine", ["scan", jaxsnn.engines.Scan(chunk=2, remat=True)])
def test_no_convolution_has_its_gradient_in_a_loop(rng, engine):
    """On CPUs, XLA computes gradients of kernels 50 times as slowly there."""
    network, _ = models.convolution_network(rng)
    snn = jaxsnn.balance_thresholds(network, 2.0, encode=jaxsnn.constant)
    images = models.dyadic_images(rng, 2, *network.input_shape)

    def loss(snn):
        run = jaxsnn.simulate(snn, images, key=0, duration=0.006, engine=engine)
        return jnp.sum(run.scores[-1] ** 2)

    found = list(loops(jax.make_jaxpr(jax.grad(loss))(snn).jaxpr))
    assert ("conv_general_dilated", True) not in found
    assert len(found) > 100


@pytest.mark.slow
def test_gradients_do_not_depend_on_chunks(rng):
    network, _ = models.convolution_network(rng)
    snn = jaxsnn.balance_thresholds(network, 2.0, encode=jaxsnn.constant)
    images = models.dyadic_images(rng, 3, *network.input_shape)

    def loss(snn, engine):
        run = jaxsnn.simulate(snn, images, key=0, duration=0.007, engine=engine)
        return jnp.sum(run.scores[-1] ** 2)

    whole, *others = (
        jax.tree.leaves(jax.grad(loss)(snn, jaxsnn.engines.Scan(chunk=chunk, remat=remat)))
        for chunk, remat in ((7, False), (3, False), (3, True))
    )
    for other in others:
        for a, b in zip(whole, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(a).max()))


@pytest.mark.slow
def test_memory_of_gradients_with_remat_grows_with_the_chunks(rng):
    """Twice the steps in as many chunks take little more: states and what is kept of each step."""
    network, _ = models.dense_network(rng, (12, 400, 400, 4))
    snn = jaxsnn.balance_thresholds(network, 2.0, encode=jaxsnn.constant)
    images = models.dyadic_images(rng, 8, 12)

    def memory(steps, chunk, remat):
        engine = jaxsnn.engines.Scan(chunk=chunk, remat=remat)

        def loss(snn):
            run = jaxsnn.simulate(snn, images, key=0, duration=steps * 1e-3, engine=engine)
            return jnp.sum(run.scores[-1] ** 2)

        compiled = jax.jit(jax.grad(loss)).lower(snn).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    kept = memory(64, 8, remat=False)
    assert memory(64, 8, remat=True) < 0.4 * kept
    assert memory(32, 8, remat=False) < 0.6 * kept


def test_drawn_spikes_have_the_gradient_of_their_probabilities(rng):
    """By images there is none without it; forward they are the spikes that they were."""
    network, _ = models.dense_network(rng)
    images = jnp.asarray(models.dyadic_images(rng, 4, *network.input_shape))
    encode = jaxsnn.encoding.straight_through(jaxsnn.poisson)
    assert encode is jaxsnn.encoding.straight_through(jaxsnn.poisson)

    def total(images, encode):
        snn = jaxsnn.balance_thresholds(network, 2.0, encode=encode)
        run = jaxsnn.simulate(snn, images, key=0, duration=0.02)
        return jnp.sum(run.scores[-1]), run.spike_counts

    drawn, with_gradient = (
        jax.grad(total, has_aux=True)(images, each) for each in (jaxsnn.poisson, encode)
    )
    assert not np.any(drawn[0])
    assert np.any(with_gradient[0])
    for one, two in zip(drawn[1], with_gradient[1], strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_gradients_go_through_max_poolings(rng):
    """By counts, of overlapping windows with padding."""
    kernel, last = models.dyadic(rng, 3, 3, 1, 4), models.dyadic(rng, 4 * 4 * 4, 3)
    numbers = ("NHWC", "HWIO", "NHWC")

    def model(x):
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        x = nnx.max_pool(jax.nn.relu(x), (3, 3), (2, 2), "SAME")
        return x.reshape(len(x), -1) @ last

    images = models.dyadic_images(rng, 3, 8, 8, 1)
    snn = jaxsnn.balance_thresholds(
        jaxsnn.read_network(model, images), 2.0, reset=jaxsnn.reset_by_subtraction
    )

    def loss(snn):
        return jnp.sum(jaxsnn.simulate(snn, images, key=0, duration=0.006).scores[-1] ** 2)

    found = jax.grad(loss)(snn)
    assert np.any(found.network.layers[0].weights[0])
    assert np.isfinite(found.network.layers[0].weights[0]).all()
