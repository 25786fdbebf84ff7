"""What suits a given number of steps without learning: scale factors, and corrected biases."""

import jax
import numpy as np
import pytest

import jaxsnn

import models
import reference

pytestmark = pytest.mark.promotes

HOW = {"reset": jaxsnn.reset_by_subtraction, "encode": jaxsnn.constant}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(0, 1, (60, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    """Logits of three layers with biases, whose weights are dyadic."""
    rng = np.random.default_rng(0)
    one, two, three = (models.dyadic(rng, *sizes) for sizes in ((8, 16), (16, 16), (16, 4)))
    return lambda x: jax.nn.relu(jax.nn.relu(x @ one + 0.25) @ two) @ three + 0.5


@pytest.fixture(scope="module")
def network(model, images):
    return jaxsnn.read_network(model, images)


def scores(network, scales, images, steps):
    snn = jaxsnn.balance_thresholds(network, scales, initial_potential=0.5, **HOW)
    return np.asarray(jaxsnn.simulate(snn, images, key=0, duration=steps * 1e-3).scores)[-1]


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_the_scales_whose_scores_agree_best(network, images, per):
    """Each candidate by hand, and NumPy's correlations."""
    candidates = {}
    for percentile in (90, 100):
        base = jaxsnn.percentile_scales(
            network, images, percentile=percentile, per=per, encode=jaxsnn.constant
        )
        for by in (0.5, 1.0):
            scales = [by * np.asarray(scale) for scale in base[:2]] + [np.ones((), np.float32)]
            agreements = map(np.corrcoef, scores(network, scales, images, 2), network(images))
            candidates[np.mean([found[0, 1] for found in agreements])] = scales
    assert len(candidates) == 4
    found = jaxsnn.scales_for(
        network, images, steps=2, percentiles=(90, 100), multipliers=(0.5, 1.0), per=per
    )
    for one, other in zip(found, candidates[max(candidates)], strict=True):
        np.testing.assert_array_equal(one, other)


def test_images_in_batches_choose_the_same(network, images):
    one, other = (jaxsnn.scales_for(network, images, steps=2, batch_size=n) for n in (60, 25))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_conversion_for_a_number_of_steps(model, network, images):
    found = jaxsnn.convert(model, images, steps=2)
    of_network = jaxsnn.convert(network, images, steps=2)
    scales = jaxsnn.scales_for(network, images, steps=2)
    snn = jaxsnn.balance_thresholds(network, scales, initial_potential=0.5, **HOW)
    for one, two, three in zip(found.thresholds, of_network.thresholds, snn.thresholds):
        np.testing.assert_array_equal(one, three)
        np.testing.assert_array_equal(two, three)
    assert not np.array_equal(found.thresholds[0], jaxsnn.convert(model, images).thresholds[0])


def test_poolings_and_learned_thresholds_keep_those_of_their_own(rng):
    """A layer without weights has the scale factors of its source, whatever it is multiplied by."""
    kernel, last = models.dyadic(rng, 3, 3, 1, 4), models.dyadic(rng, 4, 3)

    def model(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
        x = jax.nn.relu(jax.nn.relu(x).mean((1, 2)))
        return jaxsnn.neurons.clip_floor(x @ last, np.float32(2.0))

    images = models.dyadic_images(rng, 5, 4, 4, 1)
    network = jaxsnn.read_network(model, images)
    one, pooled, trained = jaxsnn.scales_for(
        network, images, steps=2, multipliers=(0.5,), percentiles=(100,)
    )
    largest = jaxsnn.percentile_scales(network, images, percentile=100, per="channel")
    np.testing.assert_array_equal(one, 0.5 * np.asarray(largest[0]))
    np.testing.assert_array_equal(np.ravel(pooled), np.ravel(one))
    assert trained == 2.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps=0; it must be at least 1"),
        ({"percentiles": ()}, "percentiles is empty, so that there is nothing to try"),
        ({"multipliers": (0.5, 0.0)}, r"multipliers=\(0.5, 0.0\): 0 is out of range"),
        ({"multipliers": (1.5,)}, "1.5 is out of range; each must be above 0 and at most 1"),
        ({"percentiles": (0.99,)}, "did you mean 99"),
        ({"percentiles": (2.0, 3.0), "per": "layer"}, "has a percentile of zero"),
    ],
)
def test_bad_choices(network, images, change, message):
    with pytest.raises(ValueError, match=message):
        jaxsnn.scales_for(network, images, **{"steps": 2, **change})


def test_steps_or_a_percentile(model, images):
    with pytest.raises(ValueError, match="percentile=99 and steps=4: with steps, percentiles are"):
        jaxsnn.convert(model, images, steps=4, percentile=99.0)


# -- Biases ----------------------------------------------------------------------------------------


def layers_of(network):
    """The layers as functions of NumPy, for the oracle."""

    def function(layer):
        weights = np.asarray(layer.connection.operations[0].kernel)
        bias = 0 if layer.bias is None else np.asarray(layer.bias)
        return [lambda x: x @ weights + bias]

    return [function(layer) for layer in network.layers]


def errors(snn, network, images, steps):
    """Activations of a ReLU network less what spikes stand for, by the oracle: for each layer."""
    thresholds = [np.asarray(theta, np.float64) for theta in snn.thresholds]
    sent = [*thresholds[:-1], np.ones(())]
    found = []
    for image, *wanted in zip(images, *network.activations(images), strict=True):
        totals = []
        spikes = reference.simulate(
            layers_of(snn.network),
            np.repeat(image[None], steps, 0),
            thresholds,
            sent,
            reset="subtraction",
            initial_potential=[0 if np.isinf(t).any() else 0.5 * t for t in thresholds],
            received=totals,
        )
        rates = [fired.sum(0) * theta / steps for fired, theta in zip(spikes[:-1], sent)]
        rates.append(totals[-1] / steps)
        found.append([np.asarray(a, np.float64) - r for a, r in zip(wanted, rates, strict=True)])
    return [np.stack(of_layer) for of_layer in zip(*found, strict=True)]


def test_biases_are_what_the_mean_errors_make_them(network, images):
    snn = jaxsnn.convert(network, images, per="layer")
    found = jaxsnn.correct_biases(snn, images, steps=3, batch_size=25)
    corrected = snn
    for index in range(3):
        error = errors(corrected, network, images, 3)[index].mean(0)
        layers = list(corrected.network.layers)
        layers[index] = layers[index].with_bias(
            ((0 if layers[index].bias is None else layers[index].bias) + error).astype(np.float32)
        )
        changed = jaxsnn.Network(tuple(layers), network.input_shape)
        corrected = jaxsnn.SpikingNetwork(
            changed, snn.thresholds, snn.amplitudes, snn.initial_potentials, snn.reset, snn.encode
        )
        np.testing.assert_allclose(
            found.network.layers[index].bias, layers[index].bias, rtol=1e-4, atol=1e-5
        )


def test_scores_are_right_on_average(network, images):
    snn = jaxsnn.convert(network, images, percentile=90.0)
    run = jaxsnn.simulate(
        jaxsnn.correct_biases(snn, images, steps=3), images, key=0, duration=0.003
    )
    np.testing.assert_allclose(run.scores[-1].mean(0) / 3, network(images).mean(0), rtol=1e-5)


def test_spikes_must_stand_for_something(rng):
    """What the two sources of a sum send are no multiples of one activation."""
    weights = models.dyadic(rng, 8, 8)

    def model(x):
        first = jax.nn.relu(x)
        return jax.nn.relu(first @ weights + jax.nn.relu(first @ weights))

    images = models.dyadic_images(rng, 4, 8)
    network = jaxsnn.read_network(model, images)
    snn = jaxsnn.SpikingNetwork(
        network, [np.float32(1.0)] * 3, [[None], [np.float32(1.0)], list(np.float32([1.0, 3.0]))]
    )
    with pytest.raises(ValueError, match="stand for no activation"):
        jaxsnn.correct_biases(snn, images, steps=3)
