"""The clip-floor: its gradients, its reading, and neurons that compute it in as many steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxsnn
from jaxsnn.engines import Events, Scan
from jaxsnn.network import ClipFloor
from jaxsnn.neurons import clip_floor

import models

KERNEL = 4 * models.dyadic(np.random.default_rng(5), 6, 4)
STEPS = {"reset": jaxsnn.reset_by_subtraction, "encode": jaxsnn.constant}


@pytest.fixture
def images(rng):
    return models.dyadic_images(rng, 50, 6)


def read_exactly(model, images):
    """The network read, which must compute what the model does, to the bit."""
    network = jaxsnn.read_network(model, images[:1])
    expected = np.asarray(jax.jit(lambda x: model(x))(images))
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(jax.jit(lambda x: network(x))(images), expected)
    return network


# -- The function ----------------------------------------------------------------------------------


def of_paper(x, threshold, levels):
    """The value and both derivatives by the paper's formulas, of one number."""
    y = threshold / levels * np.floor(np.clip(x * levels / threshold + 0.5, 0, levels))
    half = threshold / (2 * levels)
    if x <= -half:
        return y, 0, 0
    if x >= threshold - half:
        return y, 0, 1
    return y, 1, (y - x) / threshold


@pytest.mark.parametrize(("threshold", "levels"), [(2.0, 4), (0.5, 2), (4.0, 1), (3.0, 6)])
def test_values_and_gradients_are_the_papers(threshold, levels):
    x = np.arange(-32, 96, dtype=np.float32) / 16
    expected = np.array([of_paper(float(value), threshold, levels) for value in x]).T
    gradients = jax.vmap(jax.grad(clip_floor, (0, 1)), (0, None, None))
    found = [clip_floor(x, threshold, levels), *gradients(x, threshold, levels)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_transformations_change_nothing(rng):
    x = rng.normal(size=(5, 3, 4)).astype(np.float32)
    of_channels = jnp.array([0.5, 1.0, 2.0, 4.0])
    expected = clip_floor(x, of_channels)
    for channel, threshold in enumerate(of_channels.tolist()):
        found = clip_floor(x[..., channel], threshold)
        np.testing.assert_array_equal(found, expected[..., channel])
    np.testing.assert_array_equal(jax.jit(clip_floor)(x, of_channels), expected)
    np.testing.assert_array_equal(jax.vmap(clip_floor, (0, None))(x, of_channels), expected)
    np.testing.assert_array_equal(jax.vmap(clip_floor, (-1, 0), -1)(x, of_channels), expected)

    def loss(threshold):
        return (clip_floor(x, threshold) ** 2).sum()

    gradient = jax.grad(loss)(of_channels)
    assert gradient.shape == (4,)
    for changed in (jax.jit(jax.grad(loss)), jax.grad(jax.remat(loss)), jax.jacfwd(loss)):
        np.testing.assert_allclose(changed(of_channels), gradient, rtol=1e-5)
    assert clip_floor(x.astype(jnp.bfloat16), 1.0).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((0.5, 0.0), ValueError, "threshold=0.*positive"),
        ((0.5, -1.0), ValueError, "threshold=-1.*positive"),
        ((0.5, np.nan), ValueError, "threshold=nan"),
        ((np.ones(3), np.ones(2)), ValueError, r"threshold of shape \(2,\).*\(3,\)"),
        ((0.5, "1"), TypeError, "threshold is '1'"),
        ((0.5, 1.0, 0), ValueError, "levels=0; there must be at least 1"),
        ((0.5, 1.0, 2.0), TypeError, "levels is 2.0, but must be an integer"),
        ((0.5, 1.0, True), TypeError, "levels is True"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        clip_floor(*arguments)


# -- Reading ---------------------------------------------------------------------------------------


class OfLinen(linen.Module):
    @linen.compact
    def __call__(self, x):
        threshold = self.param("threshold", linen.initializers.constant(2.0), ())
        return clip_floor(x @ KERNEL, threshold, 8)


class OfNnx(nnx.Module):
    def __init__(self):
        self.threshold = nnx.Param(jnp.asarray(2.0))

    def __call__(self, x):
        return clip_floor(x @ KERNEL, self.threshold, 8)


def as_scan(x):
    """Two layers by a scan, the second of the unit matrix."""
    weights = jnp.stack([jnp.asarray(KERNEL), jnp.eye(6)[:, :4]])
    layer = lambda x, w: (jnp.pad(clip_floor(x @ w, 2.0, 8), ((0, 0), (0, 2))), None)  # noqa: E731
    return jax.lax.scan(layer, x, weights)[0][:, :4]


@pytest.mark.parametrize(
    "model",
    [
        lambda x: clip_floor(x @ KERNEL, 2.0, 8),
        jax.jit(lambda x: clip_floor(x @ KERNEL, 2.0, 8)),
        jax.remat(lambda x: clip_floor(x @ KERNEL, jnp.full(4, 2.0), 8)),
        jax.vmap(lambda x: clip_floor(x @ KERNEL, 2.0, 8)),
        lambda x: clip_floor(jax.nn.relu(x @ KERNEL), 2.0, 8),
        lambda x: jax.nn.relu(clip_floor(x @ KERNEL, 2.0, 8)),
        OfLinen().bind({"params": {"threshold": jnp.asarray(2.0)}}),
        OfNnx(),
    ],
    ids=["plain", "jit", "remat", "vmap", "after a ReLU", "before a ReLU", "linen", "nnx"],
)
def test_it_is_read_as_the_activation_of_its_layer(model, images):
    (layer,) = read_exactly(model, images).layers
    assert layer.activation == ClipFloor(2.0, 8)
    assert str(layer) == "Dense 6 → 4, at most 2 in 8 levels"


def max_pooled(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2), (1, 2), "VALID")


def average_pooled(x):
    return x.reshape(-1, 2, 2).mean(-1)


@pytest.mark.parametrize(
    "model",
    [
        as_scan,
        lambda x: clip_floor(x, 0.5, 2) @ KERNEL,
        lambda x: clip_floor(x - 0.5, 0.5, 2) @ KERNEL,
        lambda x: clip_floor(clip_floor(x @ KERNEL, 2.0, 8), 1.0, 2),
        lambda x: clip_floor(jnp.clip(x @ KERNEL, 0, 1.25), 2.0, 4),
        lambda x: jnp.clip(clip_floor(x @ KERNEL, 2.0, 4), 0, 1.25),
        lambda x: jnp.minimum(clip_floor(x @ KERNEL, 2.0, 4), 1.25),
        lambda x: clip_floor(max_pooled(x @ KERNEL), 2.0, 4),
        lambda x: max_pooled(clip_floor(x @ KERNEL, 2.0, 4)),
        lambda x: clip_floor(max_pooled(x @ KERNEL * jnp.array([[1.0, -1.0, -1.0, 1.0]])), 2.0, 4),
        lambda x: clip_floor(average_pooled(clip_floor(x @ KERNEL, 2.0, 4)), 1.0, 2),
        lambda x: clip_floor((x @ KERNEL)[:, :, None] * jnp.array([[[1.0, 0.5, -1.0]]]), 2.0, 4),
        lambda x: clip_floor(x @ KERNEL, 2.0, 4) + jax.nn.relu(x @ KERNEL),
        lambda x: clip_floor(x @ KERNEL, jnp.array([0.5, 1.0, 2.0, 4.0]), 4) @ KERNEL.T,
        lambda x: clip_floor(
            (x @ KERNEL).reshape(-1, 2, 2).transpose(0, 2, 1), jnp.array([[[0.5], [2.0]]]), 4
        ),
    ],
)
@pytest.mark.thinned(3)
def test_networks_compute_what_models_with_clip_floors_do(model, images):
    network = read_exactly(model, images)
    assert any(isinstance(layer.activation, ClipFloor) for layer in network.layers)


def test_the_maxima_of_neurons_are_pooled():
    images = np.zeros((1, 6), np.float32)
    model = lambda x: clip_floor(max_pooled(x @ KERNEL), 2.0, 4) @ -np.ones((2, 3), np.float32)  # noqa: E731
    network = jaxsnn.read_network(model, images)
    assert [layer.pools_maxima for layer in network.layers] == [False, True, False]
    assert jaxsnn.ceiling_scales(network).tolist() == [2, 2, 1]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda x: clip_floor(x, x[:, :1]), "threshold depends on the images"),
        (lambda x: clip_floor(x, jax.jit(lambda: jnp.asarray(-1.0))()), "-1, and must be positive"),
        (lambda x: jnp.where(x > 0.5, 0.5, clip_floor(x, 0.5)), "difference is a multiple"),
    ],
)
def test_errors_name_the_line_of_the_model(model, words):
    with pytest.raises(jaxsnn.ReadingError, match=f"at .*test_clip_floor.*{words}"):
        jaxsnn.read_network(model, np.zeros((1, 6), np.float32))


def test_a_function_of_the_same_name_is_no_clip_floor():
    @jax.jit
    def clip_floor(x):
        return jax.nn.relu(x)

    network = jaxsnn.read_network(lambda x: clip_floor(x @ KERNEL), np.zeros((1, 6), np.float32))
    assert network.layers[0].ceiling == np.inf


# -- Scale factors ---------------------------------------------------------------------------------


def two_layers(x):
    x = clip_floor(x @ KERNEL, 2.0, 4)
    return clip_floor(average_pooled(x) @ KERNEL[:2], 4.0, 4) @ KERNEL.T[:, :3]


@pytest.mark.parametrize("balance", [jaxsnn.balance_thresholds, jaxsnn.normalize_weights])
def test_without_scale_factors_thresholds_are_those_of_the_model(balance, images):
    network = read_exactly(two_layers, images)
    snn = balance(network, **STEPS)
    expected = balance(network, [2.0, 4.0, 1.0], initial_potential=0.5, **STEPS)
    for found, other in zip(jax.tree.leaves(snn), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(found, other)
    given = balance(network, initial_potential=0.25, **STEPS)
    assert float(given.start()[0] / given.thresholds[0]) == 0.25
    assert balance(network, [2.0, 4.0, 1.0]).initial_potentials is None


def test_normalised_weights_keep_the_function(images):
    network = read_exactly(two_layers, images)
    normal = jaxsnn.normalize_weights(network).network
    assert [layer.activation for layer in normal.layers[:2]] == [ClipFloor(1.0, 4)] * 2
    np.testing.assert_array_equal(normal(images), network(images))


def test_ceilings_of_clips_and_poolings(images):
    def model(x):
        x = jax.nn.relu(average_pooled(jax.nn.relu6(x @ KERNEL)))
        return jnp.clip(x @ KERNEL[:2], 0, 0.5)

    network = jaxsnn.read_network(model, images)
    assert jaxsnn.ceiling_scales(network).tolist() == [6, 6, 0.5]


def test_a_pooling_with_a_lower_ceiling_has_a_scale_factor_of_its_own(images):
    for activation in (lambda x: clip_floor(x, 0.5, 2), lambda x: jnp.clip(x, 0, 0.5)):
        model = lambda x: activation(average_pooled(jax.nn.relu(x @ KERNEL)))  # noqa: B023, E731
        network = jaxsnn.read_network(model, images)
        scales = jaxsnn.percentile_scales(network, images, percentile=100)
        assert scales[1] == 0.5 < scales[0]
        channels = jaxsnn.percentile_scales(network, images, percentile=100, per="channel")
        jaxsnn.balance_thresholds(network, channels).check()


@pytest.mark.parametrize("balance", [jaxsnn.balance_thresholds, jaxsnn.normalize_weights])
def test_a_layer_without_a_ceiling_is_named(balance, images):
    model = lambda x: jax.nn.relu(clip_floor(x @ KERNEL, 1.0) @ KERNEL.T)  # noqa: E731
    network = jaxsnn.read_network(model, images)
    with pytest.raises(ValueError, match=r"layer 2 of 2 .*no ceiling.*give scale.*clip_floor"):
        balance(network)


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_every_rule_takes_the_thresholds_of_clip_floors(per, images):
    network = jaxsnn.read_network(two_layers, images)
    found = [
        jaxsnn.percentile_scales(network, images, percentile=50, per=per),
        jaxsnn.data_based_scales(network, images, per=per),
        jaxsnn.locally_balanced_scales(network, images, per=per),
        jaxsnn.convert(two_layers, images, per=per).thresholds,
        jaxsnn.model_based_scales(network),
    ]
    for scales in found:
        assert [np.max(scale) for scale in scales[:2]] == [2, 4]
        assert [np.min(scale) for scale in scales[:2]] == [2, 4]


# -- Neurons ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, 4])
@pytest.mark.parametrize("balance", [jaxsnn.balance_thresholds, jaxsnn.normalize_weights])
@pytest.mark.parametrize("engine", [Scan(), Events()], ids=["scan", "events"])
def test_rates_after_as_many_steps_as_levels_are_exact(levels, balance, engine, images):
    model = lambda x: clip_floor(x @ KERNEL + 0.125, 2.0, levels)  # noqa: E731
    snn = balance(read_exactly(model, images), **STEPS)
    run = jaxsnn.simulate(snn, images, key=0, duration=levels / 1000, engine=engine)
    np.testing.assert_array_equal(2.0 * np.asarray(run.spike_counts[0]) / levels, model(images))


@pytest.mark.slow
def test_fixed_point_and_all_engines_run_clip_floors(images):
    network = read_exactly(two_layers, images)
    floating = jaxsnn.balance_thresholds(network, **STEPS)
    fixed = jaxsnn.quantize(floating)
    assert [layer.activation for layer in fixed.network.layers[:2]] == [
        ClipFloor(2.0, 4),
        ClipFloor(4.0, 4),
    ]
    runs = [
        jaxsnn.simulate(snn, images, key=0, duration=0.004, engine=engine)
        for snn in (floating, fixed)
        for engine in (Scan(), Events())
    ]
    first = 2.0 * np.asarray(runs[0].spike_counts[0]) / 4
    np.testing.assert_array_equal(first, network.activations(images)[0])
    for of_scan, of_events in (runs[:2], runs[2:]):
        for a, b in zip(of_scan.spike_counts, of_events.spike_counts, strict=True):
            np.testing.assert_array_equal(a, b)
    assert np.corrcoef(np.ravel(runs[2].scores[-1]), np.ravel(network(images)))[0, 1] > 0.8
