"""Fixed point beyond chains: biases, sums, max pooling, logits, constant currents, exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxsnn
from jaxsnn.network import INPUT, AveragePooling, Gain, MaxPooling

pytestmark = pytest.mark.promotes
AHEAD = {"initial_potential": 0.5, "reset": jaxsnn.reset_by_subtraction}
STEPS = 24


class Branches(nnx.Module):
    """Every kind of connection: strided and depthwise convolutions, sums, poolings, ReLU6."""

    def __init__(self, rngs):
        self.first = nnx.Conv(2, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.depthwise = nnx.Conv(6, 6, (3, 3), feature_group_count=6, rngs=rngs)
        self.point = nnx.Conv(6, 6, (1, 1), use_bias=False, rngs=rngs)
        self.strided = nnx.Conv(6, 8, (3, 3), strides=2, rngs=rngs)
        self.shortcut = nnx.Conv(6, 8, (1, 1), strides=2, rngs=rngs)
        self.between = nnx.BatchNorm(8, rngs=rngs)
        self.last = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        y = nnx.relu6(self.depthwise(x))
        x = nnx.relu(self.point(y) + 0.5 * x)
        y = nnx.max_pool(x, (2, 2), (2, 2))
        z = nnx.relu(self.strided(x) + self.shortcut(x))
        y = nnx.relu(self.between(z)) + nnx.relu(jnp.pad(y, ((0, 0), (0, 0), (0, 0), (1, 1))))
        y = nnx.avg_pool(nnx.relu(y), (3, 3))
        return self.last(y.reshape(len(y), -1))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).random((11, 6, 6, 2)).astype(np.float32)


class Stream(nnx.Module):
    """Sums that several layers read: activations before convolutions, a shortcut of the sum."""

    def __init__(self, rngs):
        self.first = nnx.Conv(2, 6, (3, 3), rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(n, rngs=rngs) for n in (6, 6, 8)])
        self.convolutions = nnx.List(
            [nnx.Conv(6, n, (3, 3), strides=s, rngs=rngs) for n, s in ((6, 1), (8, 2))]
        )
        self.shortcut = nnx.Conv(6, 8, (1, 1), strides=2, rngs=rngs)
        self.last = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = self.first(x)
        for norm, convolution in zip(self.norms, self.convolutions):
            shortcut = x if convolution.out_features == 6 else self.shortcut(x)
            x = shortcut + convolution(nnx.relu(norm(x)))
        return self.last(nnx.relu(self.norms[-1](x)).mean((1, 2)))


@pytest.fixture(scope="module", params=[Branches, Stream], ids=["branches", "stream"])
def network(images, request):
    model = request.param(nnx.Rngs(1))
    rng = np.random.default_rng(0)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            for name, low, high in (("mean", -0.2, 0.2), ("var", 0.5, 2), ("scale", -1, 1.5)):
                values = getattr(module, name)
                values[...] = jnp.asarray(rng.uniform(low, high, values.shape), jnp.float32)
    return jaxsnn.read_network(model, images)


def spiking(network, images, per="channel", **options):
    scales = jaxsnn.percentile_scales(network, images, percentile=99, per=per)
    return jaxsnn.balance_thresholds(network, scales, **{**AHEAD, **options})


# -- The oracle ------------------------------------------------------------------------------------


def matrix_of(connection, shape):
    """The integer matrix [senders, neurons] of a connection."""
    x = jnp.eye(int(np.prod(shape)), dtype=jnp.float32).reshape(-1, *shape)
    for operation in connection.operations:
        wide = jax.tree.map(lambda weights: weights.astype(jnp.float32), operation)
        x = operation.sum(x) if isinstance(operation, AveragePooling) else wide(x)
    return np.asarray(x, np.int64).reshape(len(x), -1)


def by_hand(fixed, inputs, rate=1.0):
    """Spikes of all layers and the last potentials, in integers of 64 bits from the equations."""
    network, numbers = fixed.network, np.issubdtype(inputs.dtype, np.floating)
    inputs = np.rint(inputs * 2.0**16).astype(np.int64) if numbers else inputs.astype(np.int64)
    inputs = inputs.reshape(*inputs.shape[:2], -1)
    batch = inputs.shape[1]
    matrices = [
        [matrix_of(part, network.shape_of(part.source)) for part in layer.connections]
        for layer in network.layers
        if not layer.pools_maxima
    ]
    matrices = iter(matrices)
    matrices = [None if layer.pools_maxima else next(matrices) for layer in network.layers]
    potentials = [
        np.zeros((batch, *shape), np.int64) + np.asarray(start)
        for shape, start in zip(network.shapes, fixed.start(), strict=True)
    ]
    spikes = [np.zeros((len(inputs), batch, *shape), np.int64) for shape in network.shapes]
    for t, drive in enumerate(inputs):
        values = {INPUT: drive}
        for index, layer in enumerate(network.layers):
            if layer.pools_maxima:
                source = layer.connection.source
                counts = [spikes[source][:end].sum(0) for end in (t, t + 1)]
                pooled = [np.asarray(layer.connection(jnp.asarray(c, jnp.float32))) for c in counts]
                fired = (pooled[1] - pooled[0]).astype(np.int64)
            else:
                current = np.zeros((batch, potentials[index][0].size), np.int64)
                weights = fixed.amplitudes[index]
                for part, matrix, weight in zip(layer.connections, matrices[index], weights):
                    received = values[part.source] @ matrix * weight
                    of_sum = part.source != INPUT and not network.layers[part.source].spiking
                    if of_sum or (part.source == INPUT and numbers):
                        received = (received + (1 << 15)) >> 16
                    current += received
                current = current.reshape(potentials[index].shape)
                if layer.bias is not None:
                    current = current + np.rint(np.asarray(layer.bias) * np.float32(rate)).astype(
                        np.int64
                    )
                if not layer.spiking and index < len(network.layers) - 1:  # a sum
                    values[index] = current.reshape(batch, -1)
                    continue
                v = potentials[index]
                v += current
                threshold = np.asarray(fixed.thresholds[index])
                fired = (v >= threshold).astype(np.int64) * layer.spiking
                v -= fired * (v if fixed.reset is jaxsnn.reset_to_zero else threshold)
            spikes[index][t] = fired
            values[index] = fired.reshape(batch, -1)
    return spikes, potentials


@pytest.mark.parametrize(
    ("bits", "encode", "per"),  # every two settings together
    [
        (8, jaxsnn.constant, "channel"),
        (8, jaxsnn.poisson, "layer"),
        (16, jaxsnn.constant, "layer"),
        (16, jaxsnn.poisson, "channel"),
    ],
)
@pytest.mark.thinned(3)
def test_spikes_and_potentials_are_those_by_hand(network, images, bits, encode, per):
    snn = spiking(network, images, per, encode=encode)
    fixed = jaxsnn.quantize(snn, bits=bits, per=per)
    engine = jaxsnn.engines.Scan(chunk=5 if bits == 8 else 1)
    options = {"key": 0, "duration": STEPS / 1000, "max_rate": 700.0, "engine": engine}
    run = jaxsnn.simulate(fixed, images, **options, record=lambda step: step.inputs)
    inputs = np.asarray(run.records)
    if encode is jaxsnn.constant:
        np.testing.assert_allclose(inputs[0], fixed.probabilities(images, 700.0, 1e-3))
    spikes, potentials = by_hand(fixed, inputs, 0.7)
    for counts, fired in zip(run.spike_counts, spikes, strict=True):
        np.testing.assert_array_equal(counts, fired.sum(0))
    assert any(operation.weighted for operation in fixed.network.layers[0].operations)
    for layer, state, expected in zip(fixed.network.layers, run.state.neurons, potentials):
        if layer.spiking and not layer.pools_maxima:
            np.testing.assert_array_equal(state.potential, expected)
    scores = potentials[-1] * np.asarray(fixed.step_sizes[-1])
    np.testing.assert_allclose(run.scores[-1], scores, rtol=1e-6)


def test_the_network_has_every_kind_of_connection(network):
    fixed = jaxsnn.quantize(jaxsnn.balance_thresholds(network, 1.0))
    kinds = {
        type(operation)
        for layer in fixed.network.layers
        for connection in layer.connections
        for operation in connection.operations
    }
    sums = [layer for layer in fixed.network.layers[:-1] if not layer.spiking]
    assert Gain in kinds
    assert sums or MaxPooling in kinds
    assert any(len(layer.connections) > 1 for layer in fixed.network.layers)


@pytest.mark.thinned(2)
def test_16_bits_are_close_to_floating_point(network, images):
    snn = spiking(network, images, encode=jaxsnn.constant)
    options = {"key": 0, "duration": 0.3, "engine": jaxsnn.engines.Scan(chunk=10)}
    exact = jaxsnn.simulate(snn, images, **options)
    size = np.abs(exact.scores).max()
    errors = []
    for bits in (8, 16):
        run = jaxsnn.simulate(jaxsnn.quantize(snn, bits=bits), images, **options)
        errors.append(np.abs(run.scores[-1] - exact.scores[-1]).max() / size)
    assert errors[1] < 0.01
    assert errors[1] <= errors[0] < 0.1


@pytest.mark.thinned(2)
def test_batches_and_chunks_do_not_matter(network, images):
    fixed = jaxsnn.quantize(spiking(network, images, encode=jaxsnn.constant))
    runs = [
        jaxsnn.simulate(fixed, images, key=0, duration=0.01, engine=engine)
        for engine in (jaxsnn.engines.Scan(), jaxsnn.engines.Scan(batch_size=4, chunk=3))
    ]
    np.testing.assert_array_equal(runs[0].scores, runs[1].scores)
    first = jaxsnn.simulate(fixed, images, key=0, duration=0.005)
    second = jaxsnn.simulate(fixed, images, key=0, duration=0.005, state=first.state)
    np.testing.assert_array_equal(second.scores, runs[0].scores[5:])


@pytest.mark.thinned(2)
def test_a_sweep_is_a_call_of_simulate_for_each_point(network, images):
    labels = np.arange(11) % 5
    arithmetic = jaxsnn.FixedPoint(8)
    grid = jaxsnn.Grid(
        scales={"percentile": jaxsnn.percentile_scales},
        threshold=[0.5, 1.0],
        max_rate=[1000, 600],
        reset={"subtraction": jaxsnn.reset_by_subtraction},
        duration=0.008,
    )
    found = jaxsnn.sweep(
        network, images, labels, grid, calibration=images, arithmetic=arithmetic, progress=False
    )
    scales = jaxsnn.percentile_scales(network, images)
    for threshold in (0.5, 1.0):
        snn = jaxsnn.balance_thresholds(network, scales, reset=jaxsnn.reset_by_subtraction)
        thresholds = [threshold * theta for theta in snn.thresholds]
        snn = jaxsnn.SpikingNetwork(
            network, thresholds, snn.amplitudes, reset=jaxsnn.reset_by_subtraction
        )
        for rate in (1000, 600):
            run = jaxsnn.simulate(
                snn, images, key=0, duration=0.008, max_rate=rate, arithmetic=arithmetic
            )
            point = found.sel(threshold=threshold, max_rate=rate).squeeze()
            right = np.rint(11 * np.asarray(run.accuracy(labels)))
            np.testing.assert_array_equal(np.rint(11 * point.accuracy.values), right)


# -- Ranges ----------------------------------------------------------------------------------------


def test_pixels_beyond_the_declared_range_are_refused(network, images):
    snn = spiking(network, images, encode=jaxsnn.constant)
    wide = 3 * images - 1
    with pytest.raises(ValueError, match=r"pixels range from -.* for 0 to 1: .*largest_input=[12]"):
        jaxsnn.simulate(jaxsnn.quantize(snn), wide, key=0, duration=0.01)
    fixed = jaxsnn.quantize(snn, bits=16, largest_input=2.0)
    options = {"key": 0, "duration": 0.1, "engine": jaxsnn.engines.Scan(chunk=10)}
    run = jaxsnn.simulate(fixed, wide, **options)
    exact = jaxsnn.simulate(snn, wide, **options)
    scale = np.abs(exact.scores).max()
    np.testing.assert_allclose(run.scores[-1] / scale, exact.scores[-1] / scale, atol=0.01)
    with pytest.raises(ValueError, match=r"largest_input=0\.5"):
        jaxsnn.FixedPoint(largest_input=0.5)


@pytest.mark.parametrize("bits", [8, 16])
def test_no_potential_can_overflow(bits):
    """All inputs white and all weights of one sign, for the longest run."""
    steps = 1 << 14
    kernel = jnp.ones((40, 3)) * jnp.array([[1.0, -1.0, 0.01]])
    shortcut = 50 * jnp.ones((40, 3)) / 40

    def model(x):
        x = jax.nn.relu(x @ jnp.eye(40))
        return x @ kernel + x @ shortcut + jnp.array([[300.0, -300.0, 1.0]])

    images = np.ones((1, 40), np.float32)
    network = jaxsnn.read_network(model, images)
    snn = jaxsnn.balance_thresholds(network, 1.0, encode=jaxsnn.constant, **AHEAD)
    fixed = jaxsnn.quantize(snn, bits=bits, steps=steps)
    run = jaxsnn.simulate(fixed, images, key=0, duration=steps / 1000)
    _, (*_, potentials) = by_hand(fixed, np.ones((1, 1, 40), np.float32))
    expected = steps * potentials  # as much in every step
    assert np.abs(expected).max() <= 1 << 30
    assert np.abs(expected).max() > 1 << 28  # and no coarser than that
    np.testing.assert_array_equal(run.state.neurons[-1].potential, expected)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.slow
def test_signed_numbers_cannot_overflow_either(rng, sign):
    """Inputs of the sign of each weight, through a sum: as much as there can be."""
    steps = 1 << 12
    signs = np.sign(rng.normal(size=(60, 4)))
    kernel = jnp.asarray(signs * rng.uniform(0.5, 1, signs.shape), jnp.float32)
    second = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)

    def model(x):
        stream = x @ kernel
        return stream @ second + jax.nn.relu(stream) @ second

    images = (sign * signs[:, :1].T).astype(np.float32)
    network = jaxsnn.read_network(model, images)
    snn = jaxsnn.balance_thresholds(network, 1.0, encode=jaxsnn.constant, **AHEAD)
    fixed = jaxsnn.quantize(snn, steps=steps, largest_input=1.01)
    run = jaxsnn.simulate(fixed, images, key=0, duration=steps / 1000)
    spikes, potentials = by_hand(fixed, np.broadcast_to(images, (steps, 1, 60)))
    assert np.abs(potentials[-1]).max() < 1 << 30
    np.testing.assert_array_equal(run.state.neurons[-1].potential, potentials[-1])
    for counts, fired in zip(run.spike_counts, spikes, strict=True):
        np.testing.assert_array_equal(counts, fired.sum(0))
