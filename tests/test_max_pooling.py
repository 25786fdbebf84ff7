"""Max pooling by numbers of spikes: after every step the largest of the window, exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxsnn
from jaxsnn.network import INPUT, Connection, Dense, Layer, MaxPooling, Network

import models

pytestmark = pytest.mark.promotes

SUBTRACTION = {"initial_potential": 0.5, "reset": jaxsnn.reset_by_subtraction}
WINDOWS = {
    "apart": {"window_shape": (2, 2), "strides": (2, 2)},
    "overlapping": {"window_shape": (3, 2), "strides": (1, 2)},
    "padded": {"window_shape": (3, 3), "strides": (2, 2), "padding": "SAME"},
}


def pooled(counts, window_shape, strides, padding="VALID"):
    """Maxima over windows of counts [..., height, width, maps], one window at a time."""
    sizes = counts.shape[-3:-1]
    low, outputs = [], []
    for size, window, stride in zip(sizes, window_shape, strides):
        many = -(-size // stride) if padding == "SAME" else (size - window) // stride + 1
        total = max((many - 1) * stride + window - size, 0) if padding == "SAME" else 0
        low.append(total // 2)
        outputs.append(many)
    found = np.zeros((*counts.shape[:-3], *outputs, counts.shape[-1]))
    for row, column in np.ndindex(*outputs):
        top, left = row * strides[0] - low[0], column * strides[1] - low[1]
        rows = slice(max(top, 0), top + window_shape[0])
        columns = slice(max(left, 0), left + window_shape[1])
        found[..., row, column, :] = counts[..., rows, columns, :].max((-3, -2))
    return found


def model_of(rng, window):
    kernel, last = models.dyadic(rng, 3, 3, 1, 4), models.dyadic(rng, 4, 3)

    def model(x):
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = nnx.max_pool(jax.nn.relu(x), **window)
        return jax.nn.relu(x.mean((1, 2)) @ last)

    return model


@pytest.fixture
def images(rng):
    return models.dyadic_images(rng, 4, 8, 8, 1)


@pytest.mark.parametrize("options", [{}, SUBTRACTION], ids=["to zero", "by subtraction"])
@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.thinned(3)
def test_a_count_is_the_largest_of_its_window_after_every_step(rng, images, name, chunk, options):
    model = model_of(rng, WINDOWS[name])
    network = jaxsnn.read_network(model, images[:1])
    np.testing.assert_allclose(network(images), model(images), rtol=1e-6)
    snn = jaxsnn.balance_thresholds(network, 1.0, **options)
    run = jaxsnn.simulate(
        snn,
        images,
        key=0,
        duration=0.02,
        engine=jaxsnn.engines.Scan(chunk=chunk),
        record=lambda step: step.spikes[:2],
    )
    sent, pool = (np.cumsum(spikes, 0) for spikes in run.records)
    assert pool.max() > 2
    np.testing.assert_array_equal(pool, pooled(sent, **WINDOWS[name]))
    assert set(np.unique(run.records[1])) == {0.0, 1.0}
    np.testing.assert_array_equal(run.spike_counts[1], pool[-1])


def test_a_run_in_two_parts_is_the_whole_run(rng, images):
    network = jaxsnn.read_network(model_of(rng, WINDOWS["padded"]), images[:1])
    snn = jaxsnn.balance_thresholds(network, 1.0, **SUBTRACTION)
    whole = jaxsnn.simulate(snn, images, key=0, duration=0.02)
    first = jaxsnn.simulate(snn, images, key=0, duration=0.007)
    second = jaxsnn.simulate(snn, images, key=0, duration=0.013, state=first.state)
    for one, both in zip(second.spike_counts, whole.spike_counts, strict=True):
        np.testing.assert_array_equal(one, both)


def test_a_sweep_counts_what_simulate_counts(rng, images):
    network = jaxsnn.read_network(model_of(rng, WINDOWS["apart"]), images[:1])
    rates = [500.0, 1000.0]
    grid = jaxsnn.Grid(scales=1.0, max_rate=rates, duration=0.015)
    data = jaxsnn.sweep(network, images, [0, 1, 2, 0], grid, progress=False)
    for rate in rates:
        snn = jaxsnn.balance_thresholds(network, 1.0)
        run = jaxsnn.simulate(snn, images, key=0, duration=0.015, max_rate=rate)
        spikes = data.spikes.sel(max_rate=rate).isel(time=-1).values.ravel()
        expected = [np.sum(counts) / len(images) for counts in run.spike_counts]
        np.testing.assert_allclose(spikes, expected)


def test_the_scale_factor_is_that_of_the_source(rng, images):
    network = jaxsnn.read_network(model_of(rng, WINDOWS["apart"]), images[:1])
    for rule in (jaxsnn.data_based_scales, jaxsnn.percentile_scales):
        scales = rule(network, images)
        assert scales[0] == scales[1]
    snn = jaxsnn.balance_thresholds(network, scales, **SUBTRACTION)
    run = jaxsnn.simulate(snn, images, key=0, duration=0.5, encode=jaxsnn.constant)
    rates, expected = run.activations()[1], network.activations(images)[1]
    assert np.abs(rates - expected).max() < 0.01 * np.max(expected)
    first, second, _ = jaxsnn.metrics.fan_out(network)
    assert np.any(first)
    assert not np.any(second)  # a max pooling has no synapses


# -- Reading ---------------------------------------------------------------------------------------

CONV = nnx.Conv(1, 4, (3, 3), rngs=nnx.Rngs(0))
SCALE, SHIFT = jnp.array([0.5, 2.0, 1.0, 0.25]), jnp.array([0.1, -0.2, 0.0, 0.3])
POOLS = {
    "after the ReLU": lambda x: nnx.max_pool(jax.nn.relu(x), (2, 2), (2, 2)),
    "before the ReLU": lambda x: jax.nn.relu(nnx.max_pool(x, (3, 3), (2, 2), padding="SAME")),
    "before a batch norm": lambda x: jax.nn.relu(nnx.max_pool(x, (2, 2)) * SCALE + SHIFT),
    "of whole maps": lambda x: jax.nn.relu(x).max((1, 2)),
    "of whole maps, before": lambda x: jax.nn.relu(x.max((1, 2)) * SCALE - 0.1),
    "of whole maps, kept": lambda x: jax.nn.relu(x.max((1, 2), keepdims=True) + SHIFT),
    "twice": lambda x: nnx.max_pool(nnx.max_pool(jax.nn.relu(x), (2, 2)), (2, 2), (2, 2)),
    "of an average": lambda x: nnx.max_pool(nnx.avg_pool(jax.nn.relu(x), (2, 2)), (2, 2)),
    "of a concatenation": lambda x: nnx.max_pool(
        jnp.concatenate([jax.nn.relu(x - 0.1), jax.nn.relu(x)], -1), (2, 2), (2, 2)
    ),
    "of a sum of ReLUs": lambda x: nnx.max_pool(jax.nn.relu(x) + jax.nn.relu(-x), (2, 2), (2, 2)),
    "of the channels": lambda x: jax.nn.relu(x).max(-1, keepdims=True) * SCALE,
    "by lax": lambda x: jax.lax.reduce_window(
        jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    ),
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.thinned(3)
def test_max_poolings_are_read(rng, name):
    def model(x):
        x = POOLS[name](CONV(x))
        x = x.reshape(len(x), -1)
        return x @ jnp.sin(jnp.arange(x.shape[1] * 3.0)).reshape(-1, 3)

    images = rng.random((6, 8, 8, 1)).astype(np.float32)
    network = jaxsnn.read_network(model, images[:1])
    expected = model(images)
    np.testing.assert_allclose(network(images), expected, atol=2e-6 * np.abs(expected).max())
    assert any(layer.pools_maxima for layer in network.layers)
    scales = jaxsnn.percentile_scales(network, images, percentile=100)
    snn = jaxsnn.balance_thresholds(network, scales, **SUBTRACTION)
    run = jaxsnn.simulate(snn, images, key=0, duration=0.4, encode=jaxsnn.constant)
    error = np.abs(run.scores[-1] / 400 - expected).max() / np.abs(expected).max()
    assert error < 0.03


SIGNS = SCALE * jnp.array([1.0, -1.0, 0.0, -1.0])
SUMS = {
    "minima by batch norm": lambda x: jax.nn.relu(nnx.max_pool(x, (2, 2), (2, 2)) * SIGNS + SHIFT),
    "minima alone": lambda x: jax.nn.relu(SHIFT - nnx.max_pool(x, (3, 2), (2, 1))),
    "minima of padded windows": lambda x: jax.nn.relu(
        SHIFT - nnx.max_pool(x, (3, 3), (2, 2), padding="SAME")
    ),
    "minima of whole maps": lambda x: jax.nn.relu(2 + SHIFT - x.max((1, 2))),
    "minima, transposed": lambda x: jax.nn.relu(
        (nnx.max_pool(x, (2, 2), (2, 2)) * SIGNS + SHIFT).transpose(0, 3, 2, 1)
    ),
    "without a ReLU": lambda x: nnx.max_pool(x, (2, 2), (2, 2)),
    "before a convolution": lambda x: jax.nn.relu(CONV(nnx.max_pool(x[..., :1], (2, 2)))),
    "in a sum": lambda x: nnx.max_pool(x, (2, 2)).sum((1, 2)) + jax.nn.relu(x).sum((1, 2)),
    "beside an average": lambda x: jax.nn.relu(x.max((1, 2)) + x.mean((1, 2))),
    "read twice": lambda x: (y := nnx.max_pool(x, (2, 2), (2, 2))) - 2 * jax.nn.relu(-y),
    "before a leaky ReLU": lambda x: jax.nn.leaky_relu(nnx.max_pool(x, (2, 2), (2, 2))),
    "before a ceiling": lambda x: jax.nn.relu6(20 * nnx.max_pool(x, (2, 2), (2, 2))),
}


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.thinned(3)
def test_other_maxima_are_sums_of_relus(rng, name):
    images = rng.random((6, 8, 8, 1)).astype(np.float32)

    def model(x):
        x = SUMS[name](CONV(x))
        x = jax.nn.relu(x.reshape(len(x), -1))
        return x @ jnp.sin(jnp.arange(x.shape[1] * 3.0)).reshape(-1, 3)

    models.assert_reads(model, images, rtol=2e-6)


@pytest.mark.slow
def test_maxima_and_minima_of_a_batch_norm(rng):
    """Channels of positive factors are pooled by counts; each part is silent for the other's."""
    images = rng.random((6, 8, 8, 1)).astype(np.float32)
    network = models.assert_reads(
        lambda x: SUMS["minima by batch norm"](CONV(x)).mean((1, 2)), images, rtol=2e-6
    )
    assert str(network).count("Convolution") == 1
    layers = zip(network.layers, network.activations(images), strict=True)
    (pooled,) = (np.asarray(values) for layer, values in layers if layer.pools_maxima)
    silent = ~np.any(pooled, (0, 1, 2))
    np.testing.assert_array_equal(silent, SIGNS <= 0)
    scales = jaxsnn.percentile_scales(network, images, percentile=100)
    snn = jaxsnn.balance_thresholds(network, scales, **SUBTRACTION)
    run = jaxsnn.simulate(snn, images, key=0, duration=0.4, encode=jaxsnn.constant)
    expected = network(images)
    assert np.abs(run.scores[-1] / 400 - expected).max() < 0.03 * np.abs(expected).max()


def test_a_max_pooling_of_the_images(rng):
    images = rng.random((6, 8, 8, 1)).astype(np.float32)
    for model in (
        lambda x: CONV(nnx.max_pool(jax.nn.relu(x), (2, 2))),
        lambda x: CONV(jax.nn.relu(nnx.max_pool(x, (2, 2)))),
    ):
        network = models.assert_reads(model, images)
    assert [layer.pools_maxima for layer in network.layers] == [False, True, False]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda x: jax.nn.relu(x.max(0)), "batch"),
        (
            lambda x: nnx.max_pool(x, (2, 2), (2, 2), padding=((2, 0), (0, 0))),
            "nothing but padding",
        ),
    ],
)
def test_what_cannot_be_read_says_why(model, words):
    with pytest.raises(jaxsnn.ReadingError, match=words):
        jaxsnn.read_network(lambda x: model(CONV(x)), jnp.zeros((1, 8, 8, 1)))


def test_a_max_pooling_is_a_layer_of_its_own():
    pool = MaxPooling((2,), (2,), ((0, 0),))
    dense = Dense(jnp.ones((4, 4)))
    wrong = [
        (Layer((pool,)),),
        (Layer((dense,)), Layer((pool, Dense(jnp.ones((2, 2)))))),
        (Layer((dense,)), Layer((Connection((pool,)), Connection((pool,), INPUT)))),
    ]
    for layers in wrong:
        with pytest.raises(ValueError, match="max pooling; it must be a layer of its own"):
            Network(layers, (4,))
