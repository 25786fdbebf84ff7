"""Scale factors against NumPy, and the two views of them against each other."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxsnn
from jaxsnn.conversion import scaling
from jaxsnn.training import RECIPES

import models


def calibration(rng, count=23):
    return models.dyadic_images(rng, count, *models.IMAGE_SHAPE)


def activations_by_numpy(layers, images):
    samples = [models.reference.relu_activations(layers, image) for image in images]
    return [np.stack(layer) for layer in zip(*samples, strict=True)]


def test_model_based_is_the_largest_sum_of_positive_weights(rng):
    first, second, last = models.convolution_weights(rng)
    network, _ = models.convolution_network(rng=np.random.default_rng(20150712))
    factors = [np.maximum(k, 0).sum((0, 1, 2)).max() for k in (first, second)]
    factors.append(np.maximum(last, 0).sum(0).max())
    expected = np.cumprod([factors[0], 1, factors[1], 1, factors[2]])
    np.testing.assert_array_equal(jaxsnn.model_based_scales(network), expected.astype(np.float32))


def test_data_based_is_the_largest_weight_or_activation(rng):
    weights = models.convolution_weights(np.random.default_rng(20150712))
    network, layers = models.convolution_network(np.random.default_rng(20150712))
    images = calibration(rng)
    largest = [a.max() for a in activations_by_numpy(layers, images)]
    first, second, last = (
        max(kernel.max(), largest[index]) for kernel, index in zip(weights, (0, 2, 4), strict=True)
    )
    np.testing.assert_array_equal(
        jaxsnn.data_based_scales(network, images), np.float32([first, first, second, second, last])
    )


def test_the_largest_weight_counts_where_activations_are_smaller():
    network = jaxsnn.read_network(lambda x: jax.nn.relu(4 * x), jnp.zeros((1, 1)))
    with pytest.warns(UserWarning, match="sets λ to 4 times"):
        assert jaxsnn.data_based_scales(network, jnp.full((1, 1), 0.25)).tolist() == [4.0]


RULES_WITH_WEIGHTS = pytest.mark.parametrize(
    "rule", [jaxsnn.data_based_scales, jaxsnn.data_based_scales_of_authors_code]
)


def dark(weights):
    """A network that divides its pixels, which are in [0, 1] already, by 255."""
    model = models.dense_function(weights)
    return jaxsnn.read_network(lambda x: model(x / 255.0), np.zeros((1, 2), np.float32))


@RULES_WITH_WEIGHTS
def test_a_weight_far_above_all_activations_is_worth_a_warning(rule):
    network = dark([np.eye(2, dtype=np.float32), np.full((2, 2), 0.5, np.float32)])
    remedies = "percentile_scales or largest_activations"
    numbers = r"layer 2 of 2 \(.*\): its largest weight, 0.5, sets λ to 127 times .*, 0.00392"
    with pytest.warns(UserWarning, match=f"^{numbers}.*{remedies}") as caught:
        scales = rule(network, jnp.ones((1, 2)))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "layer 1" not in str(caught[0].message)  # 1/255 is part of its weights
    np.testing.assert_allclose(scales, [1 / 255, 0.5], rtol=1e-6)  # the published rule stays


@RULES_WITH_WEIGHTS
@pytest.mark.filterwarnings("error")
@pytest.mark.promotes
@pytest.mark.parametrize(("weight", "pixel"), [(2.0, 0.5), (0.5, 1.0), (4.0, 0.5)])
def test_a_weight_up_to_twice_the_largest_activation_is_not(rule, weight, pixel):
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x * weight), jnp.zeros((1, 1)))
    assert rule(network, jnp.full((1, 1), pixel)).tolist() == [max(weight, weight * pixel)]


@RULES_WITH_WEIGHTS
@pytest.mark.filterwarnings("error")
@pytest.mark.promotes
def test_no_warning_for_the_papers_networks(rule, rng):
    images = rng.random((4, 28, 28, 1), dtype=np.float32)
    for name in ("fc-authors", "fc-modern", "conv-authors", "conv-modern"):
        model = RECIPES[name].model(rngs=nnx.Rngs(0), kernel_init=nnx.initializers.he_normal())
        rule(jaxsnn.read_network(model, images[:1]), images)


def test_the_layer_that_the_authors_code_leaves_alone_is_not_warned_of():
    kernel, last = jnp.eye(2)[None, None], jnp.array([[1.0], [50.0]])

    def model(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
        return jax.nn.relu(jax.nn.relu(x).reshape(len(x), -1) @ last)

    images = jnp.array([1.0, 0.0]).reshape(1, 1, 1, 2)  # the weight of 50 has a silent input
    network = jaxsnn.read_network(model, images)
    with pytest.warns(UserWarning, match="layer 2 of 2 .* 50 times"):
        jaxsnn.data_based_scales(network, images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jaxsnn.data_based_scales_of_authors_code(network, images).tolist() == [1.0, 1.0]


def test_authors_code_telescopes_no_further_than_two_layers(rng):
    network, layers = models.dense_network(rng, (6, 8, 8, 8, 3))
    images = models.dyadic_images(rng, 30, 6)
    weights = [layer.weights[0].max() for layer in network.layers]
    largest = [a.max() for a in activations_by_numpy(layers, images)]
    s = [max(pair) for pair in zip(weights, largest, strict=True)]
    previous, weights_divided_by = 1.0, []
    for scale in s:  # the code, line by line
        applied = scale / previous
        weights_divided_by.append(applied)
        previous = applied
    np.testing.assert_allclose(
        jaxsnn.data_based_scales_of_authors_code(network, images),
        np.cumprod(weights_divided_by),
        rtol=1e-6,  # two float32 divisions
    )


def test_authors_code_leaves_the_output_of_a_convolutional_network_alone(rng):
    network, _ = models.convolution_network(rng)
    images = calibration(rng)
    scales = jaxsnn.data_based_scales_of_authors_code(network, images)
    normalized = jaxsnn.normalize_weights(network, scales).network
    np.testing.assert_array_equal(normalized.layers[-1].weights[0], network.layers[-1].weights[0])


@pytest.mark.parametrize("percentile", [50, 90, 99.9, 100])
def test_percentile_is_that_of_numpy(rng, percentile):
    network, layers = models.convolution_network(rng)
    images = calibration(rng)
    expected = [np.percentile(a, percentile) for a in activations_by_numpy(layers, images)]
    if min(expected) == 0:
        with pytest.raises(ValueError, match="has a percentile of zero"):
            jaxsnn.percentile_scales(network, images, percentile=percentile)
        return
    scales = jaxsnn.percentile_scales(network, images, percentile=percentile)
    # float32 interpolation between two exact neighbours
    np.testing.assert_allclose(
        scales[jnp.array([0, 2, 4])], np.array(expected)[[0, 2, 4]], rtol=1e-6
    )
    assert scales[1] == scales[0]
    assert scales[3] == scales[2]


@pytest.mark.parametrize(
    "rule",
    [
        jaxsnn.data_based_scales,
        jaxsnn.data_based_scales_of_authors_code,
        jaxsnn.percentile_scales,
        jaxsnn.largest_activations,
    ],
)
def test_the_batch_size_does_not_matter(rng, rule):
    network, _ = models.convolution_network(rng)
    images = calibration(rng)
    results = [rule(network, images, batch_size=size) for size in (1, 7, 23, 1000)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_after_model_based_normalisation_no_neuron_gets_over_its_threshold_in_a_step(rng):
    network, _ = models.convolution_network(rng)
    normalized = jaxsnn.normalize_weights(network, jaxsnn.model_based_scales(network)).network
    for layer, shape in zip(
        normalized.layers, [network.input_shape, *network.shapes[:-1]], strict=True
    ):
        for density in (0.1, 0.5, 0.9, 1.0):
            spikes = jnp.asarray(rng.random((50, *shape)) < density, jnp.float32)
            assert (
                float(layer.connection(spikes).max()) <= 1 + 1e-6
            )  # rounding of the divided weights


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(-3, 3), min_size=5, max_size=5))
def test_weight_form_is_threshold_form(seed, exponents):
    """Exactly, for scale factors that are powers of two."""
    rng = np.random.default_rng(seed)
    network, _ = models.convolution_network(rng)
    exponents[1], exponents[3] = exponents[0], exponents[2]
    scales = jnp.asarray([2.0**exponent for exponent in exponents])
    images = models.dyadic_images(rng, 2, *models.IMAGE_SHAPE)
    runs = [
        jaxsnn.simulate(form(network, scales), images, key=seed, duration=0.012)
        for form in (jaxsnn.normalize_weights, jaxsnn.balance_thresholds)
    ]
    for one, two in zip(runs[0].spike_counts, runs[1].spike_counts, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(runs[0].predictions, runs[1].predictions)


def test_weight_form_of_a_layer_without_weights_keeps_its_spikes(rng):
    """A pooling whose λ is not that before it has its threshold moved instead."""
    network, _ = models.convolution_network(rng)
    scales = jnp.array([2.0, 0.5, 1.0, 4.0, 0.25])
    images = calibration(rng, 3)
    one, two = (
        jaxsnn.simulate(form(network, scales), images, key=1, duration=0.02)
        for form in (jaxsnn.normalize_weights, jaxsnn.balance_thresholds)
    )
    assert float(one.spike_counts[-1].sum()) > 0
    for a, b in zip(one.spike_counts, two.spike_counts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_factor_for_each_channel(rng):
    """One threshold for each map equals the network whose maps are divided by them."""
    first, second, last = models.convolution_weights(rng)
    factors = np.float32([0.5, 1, 2, 4])
    network = jaxsnn.read_network(
        models.convolution_function((first, second, last)), np.zeros((1, *models.IMAGE_SHAPE))
    )
    divided = jaxsnn.read_network(
        models.convolution_function((first / factors, second * factors[:, None], last)),
        np.zeros((1, *models.IMAGE_SHAPE)),
    )
    images = calibration(rng, 3)
    one = jaxsnn.simulate(
        jaxsnn.balance_thresholds(network, [factors, factors, 1.0, 1.0, 1.0]),
        images,
        key=0,
        duration=0.02,
    )
    two = jaxsnn.simulate(jaxsnn.balance_thresholds(divided, 1.0), images, key=0, duration=0.02)
    for a, b in zip(one.spike_counts, two.spike_counts, strict=True):
        np.testing.assert_array_equal(a, b)


# -- Errors ----------------------------------------------------------------------------------------


def relu_times(*factors):
    def model(x):
        for factor in factors:
            x = jax.nn.relu(x @ jnp.full((2, 2), factor))
        return x

    return jaxsnn.read_network(model, jnp.zeros((1, 2)))


def test_a_dead_layer_is_named():
    network, images = relu_times(1.0, -1.0, 1.0), jnp.ones((3, 2))
    for rule in (jaxsnn.data_based_scales, jaxsnn.data_based_scales_of_authors_code):
        with pytest.raises(ValueError, match=r"layer 2 of 3 .*is dead"):
            rule(network, images)
    with pytest.raises(ValueError, match=r"layer 2 of 3 .*is dead"):
        jaxsnn.model_based_scales(network)
    with pytest.raises(ValueError, match=r"layer 2 of 3 .*is dead"):
        jaxsnn.percentile_scales(network, images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 2), np.float32), "no images"),
        (np.full((3, 2), np.nan, np.float32), "pixels .*nan"),
        (np.zeros((3, 5), np.float32), "images have shape"),
        (np.zeros(2, np.float32), "images have shape"),
        (np.zeros((3, 2), np.uint8), "divide 8-bit pixels"),
    ],
)
def test_bad_calibration_images(images, message):
    with pytest.raises(ValueError, match=message):
        jaxsnn.data_based_scales(relu_times(1.0), images)


RULES_WITH_IMAGES = pytest.mark.parametrize(
    "rule",
    [
        jaxsnn.data_based_scales,
        jaxsnn.data_based_scales_of_authors_code,
        jaxsnn.percentile_scales,
        jaxsnn.largest_activations,
    ],
)


@RULES_WITH_IMAGES
@pytest.mark.parametrize("batch_size", [0, -1])
def test_bad_batch_sizes(rule, batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}; it must be at least 1"):
        rule(relu_times(1.0), jnp.ones((3, 2)), batch_size=batch_size)


@pytest.mark.parametrize(
    ("percentile", "message"),
    [
        (0.0, "percentile=0; it must be above 1 and at most 100, such as 99.9"),
        (-99.9, "percentile=-99.9; it must be above 1"),
        (101.0, "percentile=101; it must be above 1 and at most 100"),
        (float("nan"), "percentile=nan; it must be above 1 and at most 100"),
        (float("inf"), "percentile=inf; it must be above 1 and at most 100"),
        (0.999, "percentile=0.999; .*: 0.999 is 0.999 percent; did you mean 99.9?"),
        (1.0, "percentile=1; .*: 1 is 1 percent; did you mean 100?"),
    ],
)
def test_bad_percentiles(percentile, message):
    with pytest.raises(ValueError, match=message):
        jaxsnn.percentile_scales(relu_times(1.0), jnp.ones((3, 2)), percentile=percentile)


def test_a_percentile_of_zero_is_not_a_dead_layer():
    network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 1)))
    images = jnp.zeros((1000, 1)).at[:3].set(jnp.array([[0.25], [0.5], [1.0]]))
    with pytest.raises(
        ValueError, match=r"layer 1 of 1 .* 99.70 % .*percentile=99 .*above"
    ) as found:
        jaxsnn.percentile_scales(network, images, percentile=99)
    assert "dead" not in str(found.value)
    assert "train" not in str(found.value)
    assert jaxsnn.percentile_scales(network, images, percentile=99.71).tolist()[0] > 0
    assert jaxsnn.percentile_scales(network, images, percentile=100).tolist() == [2.0]
    with pytest.raises(ValueError, match=r"is dead.*train again"):
        jaxsnn.percentile_scales(network, 0 * images, percentile=99)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.6, "60"), (0.9949, "99.49"), (0.999987, "99.9987"), (1 - 1e-6, "99.99990")],
)
def test_a_share_of_zeros_is_never_rounded_to_all(share, text):
    assert scaling._percent(share) == text


@RULES_WITH_IMAGES
def test_infinite_activations_are_no_scale_factors(rule):
    network = relu_times(3e38, 3e38)
    if rule is jaxsnn.largest_activations:
        assert rule(network, jnp.ones((3, 2))).tolist() == [float("inf")] * 2
        return
    with pytest.raises(ValueError, match=r"layer 1 of 2 .*scale factor inf.*not a finite float32"):
        rule(network, jnp.ones((3, 2)))


def test_bounds_that_overflow_are_no_scale_factors():
    with pytest.raises(ValueError, match=r"layer 2 of 3 .*not a finite float32"):
        jaxsnn.model_based_scales(relu_times(1e20, 1e20, 1.0))


@RULES_WITH_IMAGES
def test_traced_images_cannot_calibrate(rule):
    network = relu_times(1.0)
    with pytest.raises(ValueError, match=r"the images are traced.*outside of jit"):
        jax.jit(partial(rule, network))(jnp.ones((3, 2)))


@RULES_WITH_IMAGES
def test_traced_weights_have_no_scale_factors(rule):
    if rule is jaxsnn.largest_activations:
        found = jax.jit(lambda network: rule(network, np.ones((3, 2), np.float32)))
        assert found(relu_times(1.0)).tolist() == [2.0]
        return
    with pytest.raises(ValueError, match="the network's weights are traced"):
        jax.jit(lambda network: rule(network, np.ones((3, 2), np.float32)))(relu_times(1.0))
    with pytest.raises(ValueError, match="the network's weights are traced"):
        jax.jit(jaxsnn.model_based_scales)(relu_times(1.0))


@pytest.mark.parametrize("form", [jaxsnn.normalize_weights, jaxsnn.balance_thresholds])
@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (0.0, "layer 1 of 2 .*scale factor 0; it must be positive"),
        ([1.0, -2.0], "layer 2 of 2 .*scale factor -2"),
        ([1.0, np.nan], "layer 2 of 2 .*nan"),
        ([1.0, np.inf], "inf"),
        ([1.0, 1.0, 1.0], "3 values for 2 layers"),
        (np.ones(3), "3 values for 2 layers"),
        ([np.ones(3), 1.0], "does not broadcast"),
    ],
)
def test_bad_scale_factors(form, scales, message):
    with pytest.raises(ValueError, match=message):
        form(relu_times(1.0, 1.0), scales)


def test_normalised_weights_take_one_factor_for_a_layer():
    with pytest.raises(ValueError, match="balance_thresholds takes arrays"):
        jaxsnn.normalize_weights(relu_times(1.0, 1.0), [np.ones(2), 1.0])


def test_printing_tells_thresholds():
    text = str(jaxsnn.balance_thresholds(relu_times(1.0, 1.0), [0.5, np.array([2.0, 1.0])]))
    assert "receives spikes of 0.5" in text
    assert "threshold 1 to 2" in text


def test_pixels_that_cannot_be_probabilities_are_warned_of(rng):
    network, _ = models.dense_network(rng)
    images = 255 * models.dyadic_images(rng, 5, 12)
    for rule in (jaxsnn.data_based_scales, jaxsnn.percentile_scales, jaxsnn.largest_activations):
        with pytest.warns(UserWarning, match=r"pixels range from 0 to 255; .*constant currents"):
            rule(network, images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jaxsnn.percentile_scales(network, images, encode=jaxsnn.constant)


# -- For each channel ------------------------------------------------------------------------------


@pytest.mark.parametrize("percentile", [90, 99.9, 100])
@pytest.mark.parametrize("batch_size", [3, 500])
def test_percentiles_of_channels_are_those_of_numpy(rng, percentile, batch_size):
    network, _ = models.convolution_network(rng)
    images = rng.random((11, *models.IMAGE_SHAPE)).astype(np.float32)
    options = {"percentile": percentile, "batch_size": batch_size}
    layers = jaxsnn.percentile_scales(network, images, **options)
    channels = jaxsnn.percentile_scales(network, images, per="channel", **options)
    activations = network.activations(images)
    for index in (0, 2, 4):  # poolings lie between
        values = np.asarray(activations[index], np.float64)
        axes = tuple(range(values.ndim - 1))
        expected = np.percentile(values, percentile, axis=axes)
        floored = np.maximum(expected, 1e-3 * float(layers[index] if index else 0))
        largest = max(expected.max(), 0)
        np.testing.assert_allclose(
            np.ravel(channels[index]), np.maximum(floored, 1e-3 * largest), rtol=1e-6
        )
        assert np.ndim(channels[index]) == values.ndim - 1
    for index in (1, 3):
        np.testing.assert_array_equal(channels[index], channels[index - 1])


def test_channels_that_come_first_and_dead_ones(rng):
    kernel = models.dyadic(rng, 4, 1, 3, 3)
    kernel[2] = -1.0

    def model(x):
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW")
        )
        return jax.nn.relu(x).reshape(len(x), -1) @ jnp.ones((4 * 36, 3))

    images = rng.random((5, 1, 8, 8)).astype(np.float32)
    network = jaxsnn.read_network(model, images[:1])
    first, last = jaxsnn.percentile_scales(network, images, percentile=100, per="channel")
    assert first.shape == (4, 1, 1)
    expected = np.asarray(network.activations(images)[0]).max((0, 2, 3))
    assert expected[2] == 0
    np.testing.assert_allclose(np.ravel(first)[[0, 1, 3]], expected[[0, 1, 3]], rtol=1e-6)
    np.testing.assert_allclose(first.ravel()[2], 1e-3 * expected.max(), rtol=1e-6)
    assert last.shape == (3,)  # no output can be negative, so that they spike
    snn = jaxsnn.balance_thresholds(
        network, [first, last], initial_potential=0.5, reset=jaxsnn.reset_by_subtraction
    )
    run = jaxsnn.simulate(snn, images, key=0, duration=0.4, encode=jaxsnn.constant)
    outputs = network(images)
    assert np.abs(run.scores[-1] / 400 - outputs).max() < 0.02 * np.abs(outputs).max()


def test_scale_factors_of_channels_need_fewer_steps(rng):
    """Channels of very different sizes: a factor for the layer leaves the small ones silent."""
    first = rng.normal(size=(6, 20)) * np.geomspace(0.01, 1, 20)
    second = rng.normal(size=(20, 4)) / np.geomspace(0.01, 1, 20)[:, None]
    first, second = first.astype(np.float32), second.astype(np.float32)
    images = rng.random((50, 6)).astype(np.float32)
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ first) @ second, images[:1])
    errors = {}
    for per in ("layer", "channel"):
        scales = jaxsnn.percentile_scales(network, images, percentile=100, per=per)
        snn = jaxsnn.balance_thresholds(
            network, scales, initial_potential=0.5, reset=jaxsnn.reset_by_subtraction
        )
        run = jaxsnn.simulate(snn, images, key=0, duration=0.016, encode=jaxsnn.constant)
        errors[per] = float(np.abs(run.scores[-1] / 16 - network(images)).mean())
    assert errors["channel"] < errors["layer"] / 3


def test_per_channel_the_data_based_rule_takes_the_maxima_of_each_channel():
    rng = np.random.default_rng(0)
    kernel, weights = rng.normal(size=(3, 3, 1, 4)), rng.normal(size=(4, 3))
    kernel[..., 0], kernel[..., 1] = -1.0, 5.0  # a dead map, and one of large weights

    def model(x):
        x = jax.nn.relu(jax.lax.conv_general_dilated(
            x, jnp.asarray(kernel, x.dtype), (1, 1), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC")))  # fmt: skip
        x = jax.nn.relu(x.mean((1, 2)))
        return jax.nn.relu(x @ jnp.asarray(weights, x.dtype))

    images = rng.random((9, 5, 5, 1)).astype(np.float32) / 30
    network = jaxsnn.read_network(model, images)
    with pytest.warns(UserWarning, match="sets λ"):
        found = jaxsnn.data_based_scales(network, images, per="channel", batch_size=4)
    with pytest.warns(UserWarning, match="sets λ"):
        whole = jaxsnn.data_based_scales(network, images)
    activations = [np.asarray(a) for a in network.activations(images)]
    first = np.maximum(activations[0].max((0, 1, 2)), kernel.max((0, 1, 2)))
    first = np.maximum(first, 1e-3 * first.max())
    last = np.maximum(activations[2].max(0), weights.max(0))
    np.testing.assert_allclose(found[0], first[None, None], rtol=1e-6)
    np.testing.assert_array_equal(np.ravel(found[1]), np.ravel(found[0]))  # of the pooling
    np.testing.assert_allclose(found[2], last, rtol=1e-6)
    for of_layer, of_channels in zip(whole, found):
        assert float(of_layer) == float(of_channels.max())
    jaxsnn.balance_thresholds(network, found).check()


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_local_threshold_balancing_by_its_equation(per):
    """λ ← λ + 2 mean(relu(x - λ)), layer after layer on what is clipped."""
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(6, 5)), rng.normal(size=(5, 3))
    bias = rng.normal(size=(1, 5))
    images = rng.random((23, 6)).astype(np.float32)
    f32 = lambda values: jnp.asarray(values, jnp.float32)  # noqa: E731
    network = jaxsnn.read_network(
        lambda x: jax.nn.relu(jax.nn.relu(x @ f32(first) + f32(bias)) @ f32(second)), images
    )
    axis = None if per == "layer" else 0
    scales = [np.zeros(5 if axis == 0 else ()), np.zeros(3 if axis == 0 else ())]
    for _ in range(2):
        for start in range(0, 23, 4):
            x = images[start : start + 4].astype(float)
            for index, (weights, constant) in enumerate([(first, bias), (second, 0)]):
                x = x @ weights + constant
                scales[index] = scales[index] + 2 * np.maximum(x - scales[index], 0).mean(axis)
                x = np.minimum(np.maximum(x, 0), scales[index])
    found = jaxsnn.locally_balanced_scales(network, images, per=per, passes=2, batch_size=4)
    for expected, value in zip(scales, found):
        floor = 1e-3 * expected.max() if per == "channel" else 0
        np.testing.assert_allclose(value, np.maximum(expected, floor), rtol=1e-5)
    most = jaxsnn.largest_activations(network, images)
    assert all(float(np.max(value)) < float(a) for value, a in zip(found, most))


def test_local_threshold_balancing_leaves_poolings_and_ceilings():
    def model(x):
        x = jax.nn.relu6(20 * x)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return x.reshape(len(x), -1) @ jnp.ones((4, 2)) - 1

    images = np.random.default_rng(2).random((40, 4, 4, 1)).astype(np.float32)
    network = jaxsnn.read_network(model, images)
    found = jaxsnn.locally_balanced_scales(network, images, per="layer", batch_size=5)
    assert found[0] == found[1] <= 6
    assert found[-1] == 1
    with pytest.raises(ValueError, match="passes=0"):
        jaxsnn.locally_balanced_scales(network, images, passes=0)
