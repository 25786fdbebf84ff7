"""The events beyond chains, in both arithmetics: every kind of connection, and a fixed order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import jaxsnn
from jaxsnn import stopping
from jaxsnn.conversion.rounding import largest_sum
from jaxsnn.engines.events import run as events_run
from jaxsnn.engines.events.kinds import DENSE, MAXIMA, POOL, SCATTER, TARGET
from jaxsnn.network import INPUT

import models
from numpy_engine import NumpyEngine, all_matrices

pytestmark = pytest.mark.promotes
SHAPE = (6, 6, 4)
RELU = jax.nn.relu
AHEAD = {"initial_potential": 0.5, "reset": jaxsnn.reset_by_subtraction}


def kernel(*shape):
    return jnp.asarray(models.dyadic(np.random.default_rng(sum(shape)), *shape))


def convolve(x, *window, layout="NHWC", weights="HWIO", **options):
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    numbers = (layout, weights, layout)
    return lax.conv_general_dilated(x, kernel(*window), dimension_numbers=numbers, **options)


def pool(x, size, stride, padding="VALID", **options):
    return nnx.avg_pool(x, (size, size), (stride, stride), padding, **options)


def flat(x):
    return x.reshape(len(x), -1)


def channels_first(x):
    x = RELU(convolve(x.transpose(0, 3, 1, 2), 3, 4, 3, 3, layout="NCHW", weights="OIHW"))
    return RELU(convolve(x, 5, 3, 2, 2, layout="NCHW", weights="OIHW"))


def concatenated(x):
    parts = RELU(convolve(x, 1, 1, 4, 2)), RELU(convolve(x, 3, 3, 4, 3))
    return RELU(convolve(jnp.concatenate(parts, -1), 3, 3, 5, 4))


def shortcut(x):
    x = RELU(convolve(x, 3, 3, 4, 4))
    y = RELU(convolve(x, 3, 3, 4, 4) + kernel(4))
    return RELU(convolve(y, 1, 1, 4, 4) + x - 0.25 * y)


# A model with each kind of connection, and how its layers receive spikes and from where.
MODELS = {
    "dense": (lambda x: RELU(flat(x) @ kernel(144, 7)), [[DENSE]]),
    "dense, on the channels": (lambda x: RELU(x @ kernel(4, 5)), [[SCATTER]]),
    "a pooling before a dense layer": (lambda x: RELU(flat(pool(x, 2, 2)) @ kernel(36, 7)), 0),
    "a pooling before a convolution": (lambda x: RELU(convolve(pool(x, 2, 2), 3, 3, 4, 5)), 0),
    "a pooling after a convolution": (lambda x: RELU(pool(convolve(x, 3, 3, 4, 5), 2, 2)), 0),
    "an overlapping pooling": (lambda x: RELU(pool(RELU(x), 4, 1)), [[TARGET], [SCATTER]]),
    "a pooling that counts no padding": (
        lambda x: RELU(pool(RELU(x), 2, 2, "SAME", count_include_pad=False)), [[TARGET], [TARGET]]),
    "channels first": (channels_first, [[SCATTER], [SCATTER]]),
    "depthwise": (lambda x: RELU(convolve(x, 3, 3, 1, 4, feature_group_count=4)), [[SCATTER]]),
    "groups": (lambda x: RELU(convolve(x, 3, 3, 2, 6, feature_group_count=2)), [[SCATTER]]),
    "strides": (lambda x: RELU(convolve(x, 3, 3, 4, 5, window_strides=(2, 2))), [[SCATTER]]),
    "transposed": (
        lambda x: RELU(convolve(x, 3, 3, 4, 5, padding=((2, 1), (2, 1)), lhs_dilation=(2, 2))),
        [[SCATTER]]),
    "dilated": (lambda x: RELU(convolve(x, 3, 3, 4, 5, rhs_dilation=(2, 2))), [[SCATTER]]),
    "slices": (lambda x: RELU(convolve(x, 3, 3, 4, 5)[:, ::2, 1:5, ::-1]), 0),
    "padding": (
        lambda x: RELU(jnp.pad(convolve(x, 3, 3, 4, 5), ((0, 0), (1, 2), (0, 0), (0, 0)))), 0),
    "a factor for each neuron": (lambda x: RELU(x * kernel(6, 6, 4)), [[TARGET]]),
    "a concatenation": (concatenated, [[SCATTER], [SCATTER], [SCATTER, SCATTER]]),
    "biases and shortcuts": (shortcut, [[SCATTER], [SCATTER], [SCATTER, TARGET, TARGET]]),
    "ReLU6": (lambda x: jax.nn.relu6(4 * flat(x) @ kernel(144, 7)), 0),
}  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return models.dyadic_images(np.random.default_rng(2), 5, *SHAPE)


@functools.cache
def read(name):
    """The network of a model with logits after it, and the kinds of its connections."""
    model, kinds = MODELS[name]

    def whole(x):
        x = flat(model(x))
        return x @ kernel(x.shape[1], 3)

    network = jaxsnn.read_network(whole, np.zeros((1, *SHAPE), np.float32))
    return network, kinds and [*kinds, [DENSE]]


def assert_equal_runs(one, other):
    """Everything that a run returns, and its state, but for the types of counts."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bits", [None, 8], ids=["float", "8 bits"])
@pytest.mark.thinned(5)
def test_each_kind_of_connection(name, bits, images):
    """Against NumPy; the weights are dyadic, so that sums of floats are exact."""
    network, kinds = read(name)
    for encode, options in ((jaxsnn.poisson, AHEAD), (jaxsnn.constant, {})):
        snn = jaxsnn.balance_thresholds(network, 0.5, encode=encode, **options)
        snn = snn if bits is None else jaxsnn.quantize(snn, bits=bits)
        given = {"key": 3, "duration": 0.01, "max_rate": 500.0}
        found = jaxsnn.simulate(snn, images, engine="events", **given)
        assert_equal_runs(found, jaxsnn.simulate(snn, images, engine=NumpyEngine(), **given))
        assert any(np.any(counts > 0) for counts in found.spike_counts)
    if kinds and bits is None:
        tables = events_run.layout_of(snn).tables
        bounds = zip(tables.layers["connection"], tables.layers["last_connection"])
        assert [tables.connections["kind"][slice(*ends)].tolist() for ends in bounds] == kinds


def amplitudes_of_channels(network):
    """Scale factors of channels, so that the spikes of a source weigh differently."""
    rng = np.random.default_rng(4)
    return [
        2.0 ** rng.integers(-2, 2, shape[-1]) if index % 2 == 0 else 0.5
        for index, shape in enumerate(network.shapes)
    ]


@pytest.mark.parametrize(
    "name", ["channels first", "a concatenation", "biases and shortcuts", "an overlapping pooling"]
)
@pytest.mark.parametrize("bits", [None, 8], ids=["float", "8 bits"])
@pytest.mark.thinned(3)
def test_scale_factors_of_channels(name, bits, images):
    network, _ = read(name)
    scales = amplitudes_of_channels(network)
    if name == "channels first":
        scales = [np.reshape(2.0 ** np.arange(-2, 1), (3, 1, 1)), 0.5, 1.0]
    snn = jaxsnn.balance_thresholds(network, scales, **AHEAD)
    snn = snn if bits is None else jaxsnn.quantize(snn, bits=bits)
    found = jaxsnn.simulate(snn, images, key=3, duration=0.01, engine="events")
    expected = jaxsnn.simulate(snn, images, key=3, duration=0.01, engine=NumpyEngine())
    assert_equal_runs(found, expected)


def pooled(x):
    """Max pooling of windows that overlap, of ReLUs, and one after it without overlap."""
    x = nnx.max_pool(RELU(convolve(x, 3, 3, 4, 5) + kernel(5)), (3, 3), (1, 1), "SAME")
    x = RELU(convolve(x, 3, 3, 5, 6))
    return flat(nnx.max_pool(x, (2, 2), (2, 2))) @ kernel(54, 3)


@pytest.mark.parametrize("bits", [None, 8, 16], ids=["float", "8 bits", "16 bits"])
@pytest.mark.parametrize("options", [{}, {"stop": stopping.margin(1)}], ids=["", "stopped"])
@pytest.mark.thinned(3)
def test_max_pooling(bits, options, images):
    network = jaxsnn.read_network(pooled, images)
    snn = jaxsnn.balance_thresholds(network, 0.5, encode=jaxsnn.constant, **AHEAD)
    snn = snn if bits is None else jaxsnn.quantize(snn, bits=bits)
    assert MAXIMA in events_run.layout_of(snn).tables.layers["kind"]
    given = {"key": 3, "duration": 0.012, **options}
    found = jaxsnn.simulate(snn, images, engine="events", **given)
    expected = jaxsnn.simulate(snn, images, engine="scan", **given)
    if not options:
        assert_equal_runs(found, expected)
    else:
        np.testing.assert_array_equal(found.exit_time, expected.exit_time)
        np.testing.assert_array_equal(found.predictions, expected.predictions)
        assert len(np.unique(found.exit_time)) > 1
    first = jaxsnn.simulate(snn, images, key=3, duration=0.005, engine="events")
    if not options:
        rest = {"key": 3, "duration": 0.007, "state": first.state}
        second = jaxsnn.simulate(snn, images, engine="events", **rest)
        np.testing.assert_array_equal(second.scores, found.scores[5:])


@pytest.mark.parametrize("bits", [None, 8], ids=["float", "8 bits"])
def test_max_pooling_as_the_output(bits, images):
    """A spike of an output stands for its threshold."""

    def model(x):
        return nnx.max_pool(RELU(convolve(x, 3, 3, 4, 5)), (6, 6)).reshape(len(x), -1)

    snn = jaxsnn.balance_thresholds(jaxsnn.read_network(model, images), 0.5)
    network = snn if bits is None else jaxsnn.quantize(snn, bits=bits)
    given = {"key": 3, "duration": 0.012}
    found = jaxsnn.simulate(network, images, engine="events", **given)
    assert_equal_runs(found, jaxsnn.simulate(network, images, engine="scan", **given))
    theta = np.asarray(network.thresholds[-1]) * (1 if bits is None else network.step_sizes[-1])
    np.testing.assert_allclose(found.scores[-1], theta * found.spike_counts[-1], rtol=1e-6)
    assert found.spike_counts[-1].min() > 0


def test_poolings_look_at_every_neuron_where_one_may_stay_at_its_threshold(images):
    """After a reset by subtraction, or with initial potentials at the threshold."""

    def model(x):
        return RELU(flat(RELU(pool(RELU(convolve(x, 3, 3, 4, 5)), 2, 2))) @ kernel(45, 3))

    network = jaxsnn.read_network(model, images)
    for scale, options in ((0.5, {}), (0.125, AHEAD), (0.5, AHEAD)):
        snn = jaxsnn.quantize(jaxsnn.balance_thresholds(network, [0.5, scale, 0.5], **options))
        assert events_run.layout_of(snn).tables.layers["kind"][1] == POOL
        given = {"key": 3, "duration": 0.01}
        found = jaxsnn.simulate(snn, images, engine="events", **given)
        assert_equal_runs(found, jaxsnn.simulate(snn, images, engine=NumpyEngine(), **given))


# -- Floating point in a fixed order ---------------------------------------------------------------


def roughly(x):
    """Weights that are no dyadic numbers, so that float32 sums depend on their order."""
    rng = np.random.default_rng(6)

    def weights(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), jnp.float32)

    x = RELU(lax.conv_general_dilated(x, weights(3, 3, 4, 6), (1, 1), "SAME",
                                      dimension_numbers=("NHWC", "HWIO", "NHWC")))  # fmt: skip
    y = RELU(flat(x) @ weights(216, 40) + weights(40))
    y = RELU(y @ weights(40, 40) + 0.3 * y)
    return y @ weights(40, 5) + flat(x) @ weights(216, 5)


@pytest.fixture(scope="module")
def rough(images):
    network = jaxsnn.read_network(roughly, images)
    return jaxsnn.balance_thresholds(network, jaxsnn.data_based_scales(network, images), **AHEAD)


def add(current, columns, rows_of_four):
    """Add columns of weights to currents in the order of the events, in float32."""
    columns = list(columns)
    while rows_of_four and len(columns) >= 4:
        one, two, three, four, *columns = columns
        current = current + (((one + two) + three) + four)
    for column in columns:
        current = current + column
    return current


def in_order(snn, images, steps, key):
    """Spikes of all layers of one sample, and scores, in float32 in the order that is documented.

    What a neuron receives in every step comes first: its bias, then inputs that spike more often
    than not; then inputs that spike for once, less those that do not; then other connections.
    """
    relus, layout = snn.network, events_run.layout_of(snn)
    kinds = iter(layout.tables.connections["kind"])
    matrices = [[(m.astype(np.float32), next(kinds)) for m in row] for row in all_matrices(snn)]
    probability = np.asarray(images[0]).ravel()
    usual = np.flatnonzero(probability > 0.5)
    potentials = [
        np.broadcast_to(np.asarray(v), s).ravel() for v, s in zip(snn.start(), relus.shapes)
    ]
    thresholds = [
        np.broadcast_to(np.asarray(t), s).ravel() for t, s in zip(snn.thresholds, relus.shapes)
    ]
    total, fired_in, scores = potentials[-1], [], []
    for step in range(steps):
        step_key = jax.random.fold_in(jax.random.fold_in(jax.random.key(key), 0), step)
        drawn = np.asarray(jaxsnn.poisson(step_key, probability)) > 0
        fired = {INPUT: drawn}
        for index, layer in enumerate(relus.layers):
            bias = 0 if layer.bias is None else np.asarray(layer.bias, np.float32)
            current = np.broadcast_to(np.float32(bias), relus.shapes[index]).ravel()
            parts = list(zip(layer.connections, matrices[index], strict=True))
            for part, (matrix, kind) in parts:
                if part.source == INPUT:
                    current = add(current, matrix.T[usual], kind == DENSE)
            for part, (matrix, kind) in parts:
                who = np.flatnonzero(fired[part.source])
                if part.source == INPUT:
                    less = np.setdiff1d(usual, who)
                    current = add(current, matrix.T[np.setdiff1d(who, usual)], kind == DENSE)
                    current = -add(-current, matrix.T[less], kind == DENSE)
                else:
                    order = layout.orders[part.source].ravel()
                    who = who[np.argsort(order[who])]
                    current = add(current, matrix.T[who], kind == DENSE)
            potential = potentials[index] + current
            if index + 1 == len(relus.layers):
                total = total + current
            spikes = (potential >= thresholds[index]) & layer.spiking
            potentials[index] = np.where(spikes, potential - thresholds[index], potential)
            fired[index] = spikes
        fired_in.append(fired)
        scores.append(total)
    spikes = [np.stack([f[index] for f in fired_in]) for index in range(len(relus.layers))]
    return spikes, np.stack(scores)


def test_floats_are_added_in_the_order_that_is_documented(rough, images):
    images = images[:1]
    found = jaxsnn.simulate(rough, images, key=3, duration=0.02, engine="events")
    spikes, scores = in_order(rough, images, 20, 3)
    for counts, fired in zip(found.spike_counts, spikes, strict=True):
        np.testing.assert_array_equal(np.ravel(counts), fired.sum(0))
    np.testing.assert_array_equal(found.scores[:, 0], scores)
    scan = jaxsnn.simulate(rough, images, key=3, duration=0.02, engine="scan")
    np.testing.assert_allclose(found.scores, scan.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("encode", [jaxsnn.poisson, jaxsnn.constant])
def test_floats_do_not_depend_on_batches_cores_or_segments(rough, images, encode, monkeypatch):
    options = {"key": 3, "duration": 0.02, "engine": "events", "encode": encode}
    whole = jaxsnn.simulate(rough, images, **options)
    part = jaxsnn.simulate(rough, images[3:4], samples=[3], **options)
    np.testing.assert_array_equal(part.scores[:, 0], whole.scores[:, 3])
    first = jaxsnn.simulate(rough, images, **{**options, "duration": 0.008})
    rest = jaxsnn.simulate(rough, images, **{**options, "duration": 0.012}, state=first.state)
    np.testing.assert_array_equal(rest.scores, whole.scores[8:])
    monkeypatch.setattr(events_run, "_STEPS_AT_ONCE", 3)
    monkeypatch.setattr(events_run, "_IMAGES_AT_ONCE", 1)
    assert_equal_runs(jaxsnn.simulate(rough, images, **options), whole)


# -- What they refuse ------------------------------------------------------------------------------


def sums(x):
    """A sum that two layers read."""
    y = flat(x) @ kernel(144, 8) + kernel(8)
    for _ in range(2):
        y = y + RELU(y) @ kernel(8, 8)
    return RELU(y)


def test_sums_are_left_to_the_scan(images):
    snn = jaxsnn.balance_thresholds(jaxsnn.read_network(sums, images), 1.0)
    with pytest.raises(ValueError, match="neurons, and no sums sent as numbers, in layer 1"):
        jaxsnn.simulate(snn, images, key=3, duration=0.004, engine="events")
    with pytest.warns(UserWarning, match="simulated by the scan.*it simulates neurons"):
        jaxsnn.simulate(snn, images, key=3, duration=0.004)


def test_weights_that_could_not_be_shared_are_left_to_the_scan(images, monkeypatch):
    """A pooling that divides by different numbers, before a convolution."""

    def model(x):
        x = pool(x, 2, 1, "SAME", count_include_pad=False)
        return flat(RELU(convolve(x, 3, 3, 4, 5)))

    snn = jaxsnn.balance_thresholds(jaxsnn.read_network(model, images), 1.0)
    found = jaxsnn.simulate(snn, images, key=3, duration=0.004, engine="events")
    expected = jaxsnn.simulate(snn, images, key=3, duration=0.004, engine=NumpyEngine())
    assert_equal_runs(found, expected)
    monkeypatch.setattr("jaxsnn.engines.events.runs._MOST_SYNAPSES", 1000)
    again = jaxsnn.balance_thresholds(jaxsnn.read_network(model, images), 1.0)
    with pytest.raises(
        ValueError, match="synapses would each have a weight of their own, in layer"
    ):
        jaxsnn.simulate(again, images, key=3, duration=0.004, engine="events")


# -- What a review found ---------------------------------------------------------------------------


def test_max_pooling_of_transposed_maps(images):
    """A move beside the pooling belongs to its connection."""

    def model(x):
        x = RELU(convolve(x, 3, 3, 4, 5)).transpose(0, 3, 1, 2)
        return flat(
            RELU(lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID"))
        )

    snn = jaxsnn.balance_thresholds(jaxsnn.read_network(model, images), 0.5)
    found = jaxsnn.simulate(snn, images, key=3, duration=0.01, engine="events")
    assert_equal_runs(found, jaxsnn.simulate(snn, images, key=3, duration=0.01, engine="scan"))


def test_small_weights_of_16_bits_have_large_sums():
    """A grid for a long run has small integers; their sums are still beyond 16 bits."""
    network = jaxsnn.read_network(lambda x: RELU(x @ jnp.ones((1000, 2))), np.zeros((1, 1000)))
    snn = jaxsnn.balance_thresholds(network, 2000.0)
    fixed = jaxsnn.quantize(snn, bits=16, steps=10_000)
    assert np.abs(fixed.network.layers[0].weights[0]).max() <= 127
    white = np.ones((1, 1000), np.float32)
    found = jaxsnn.simulate(fixed, white, key=3, duration=0.02, engine="events")
    assert_equal_runs(found, jaxsnn.simulate(fixed, white, key=3, duration=0.02, engine="scan"))


@pytest.mark.parametrize("margin", [jaxsnn.stopping.Margin(jnp.array(2)), stopping.margin(3)])
def test_margins_of_outputs_in_another_order_of_memory(images, margin):
    """Logits whose units differ, from a convolution whose maps come last in memory."""

    def model(x):
        x = convolve(RELU(x).transpose(0, 3, 1, 2), 3, 4, 6, 6, layout="NCHW", weights="OIHW",
                     padding="VALID", window_strides=(6, 6))  # fmt: skip
        return flat(x)

    network = jaxsnn.read_network(model, images)
    snn = jaxsnn.balance_thresholds(network, 0.5, encode=jaxsnn.constant, **AHEAD)
    fixed = jaxsnn.quantize(snn)
    runs = [
        jaxsnn.simulate(fixed, images, key=3, duration=0.03, engine=engine, stop=margin)
        for engine in ("events", "scan")
    ]
    np.testing.assert_array_equal(runs[0].exit_time, runs[1].exit_time)
    np.testing.assert_array_equal(runs[0].scores, runs[1].scores)
    np.testing.assert_array_equal(runs[0].state.received, runs[1].state.received)
    assert len(np.unique(runs[0].exit_time)) > 1


def test_currents_that_round_to_nothing_are_not_counted(images):
    network = jaxsnn.read_network(lambda x: RELU(flat(x) @ kernel(144, 3)), images)
    fixed = jaxsnn.quantize(jaxsnn.balance_thresholds(network, 1.0, encode=jaxsnn.constant))
    faint = np.full((1, *SHAPE), 1e-6, np.float32)
    runs = [
        jaxsnn.simulate(fixed, faint, key=3, duration=0.01, engine=engine)
        for engine in ("events", "scan")
    ]
    assert_equal_runs(*runs)
    assert runs[0].input_spike_counts.sum() == 0


def test_floats_do_not_depend_on_where_a_run_is_split():
    """Poolings that start above their threshold, too."""

    def model(x):
        return flat(RELU(pool(RELU(x * 0.3), 2, 2)))

    images = np.random.default_rng(0).random((3, 6, 6, 4), np.float32)
    snn = jaxsnn.balance_thresholds(jaxsnn.read_network(model, images), [1.0, 0.7])
    options = {"key": 3, "engine": "events"}
    start = {"initial_potential": [0.0, 3.0]}
    whole = jaxsnn.simulate(snn, images, duration=0.06, **start, **options)
    first = jaxsnn.simulate(snn, images, duration=0.03, **start, **options)
    rest = jaxsnn.simulate(snn, images, duration=0.03, state=first.state, **options)
    np.testing.assert_array_equal(rest.scores, whole.scores[30:])


def test_points_whose_spikes_weigh_the_same_share_a_layout(images, monkeypatch):
    laid_out, lay_out = [], events_run.lay_out
    monkeypatch.setattr(events_run, "lay_out", lambda snn: laid_out.append(snn) or lay_out(snn))
    network = jaxsnn.read_network(lambda x: RELU(flat(x) @ kernel(144, 3)), images)
    grid = jaxsnn.Grid(
        scales={"a": 1.0, "b": 2.0}, threshold=[0.5, 1.0], max_rate=[500, 1000], duration=0.003
    )
    jaxsnn.sweep(network, images, [0] * 5, grid, engine="events")
    assert len(laid_out) == 1  # spikes of the only layer go nowhere


@pytest.mark.parametrize(
    ("bias", "expected"), [(0.5, np.int16), (-0.5, np.int16), (300.0, np.int32)]
)
def test_sums_have_16_bits_where_they_cannot_overflow(images, bias, expected):
    """With weights of 8 bits and a bias that fits; spikes are the same either way."""

    def model(x):
        x = RELU(flat(pool(convolve(x, 3, 3, 4, 4) + bias, 2, 2)))
        return x @ kernel(36, 10) - bias

    network = jaxsnn.read_network(model, np.zeros((1, *SHAPE), np.float32))
    snn = jaxsnn.balance_thresholds(network, 1.0, encode=jaxsnn.constant, **AHEAD)
    snn = jaxsnn.quantize(snn, bits=8)
    assert events_run.layout_of(snn).tables.currents.dtype == expected
    given = {"key": 3, "duration": 0.02}
    found = jaxsnn.simulate(snn, images, engine="events", **given)
    assert_equal_runs(found, jaxsnn.simulate(snn, images, engine="scan", **given))
    assert found.spike_counts[0].max() > 0


def test_bounds_of_sums_are_reached():
    """By inputs of 1 at the weights of one sign, after poolings and before gains."""
    network = jaxsnn.read_network(lambda x: RELU(x @ kernel(12, 3)), np.zeros((1, 12), np.float32))
    fixed = jaxsnn.quantize(jaxsnn.balance_thresholds(network, 1.0))
    (weights,) = map(np.asarray, fixed.network.layers[0].weights)
    reached = [abs(weights.astype(int) * (weights * sign > 0)).sum(0).max() for sign in (1, -1)]
    assert largest_sum(fixed, 0) == max(reached) + 2
