"""Networks that are no chains: several sources, sums without neurons, linear outputs."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxsnn
from jaxsnn.network import INPUT, Connection, Dense, Layer, Multiply, Network, linear

import models

STEPS = 12
SCALES = [2.0, 1.0, 4.0, 1.0, 2.0, 2.0, 1.0]
AHEAD = {"initial_potential": 0.5, "reset": jaxsnn.reset_by_subtraction}


@pytest.fixture
def network(rng):
    def dense(*shape, source):
        return Connection((Dense(jnp.asarray(models.dyadic(rng, *shape))),), source)

    def bias(size):
        return jnp.asarray(models.dyadic(rng, size))

    half = Connection((Multiply(jnp.asarray(0.5)),), 2)
    layers = (
        Layer((dense(6, 8, source=INPUT),), bias(8)),
        Layer((dense(8, 8, source=0),)),
        Layer((dense(8, 8, source=1), Connection((), 0)), bias(8)),
        Layer((dense(8, 5, source=2), dense(6, 5, source=INPUT)), activation=linear),
        Layer((dense(5, 7, source=3),), bias(7)),
        Layer((dense(5, 8, source=3), half, Connection((), 1))),
        Layer((dense(7, 4, source=4), dense(8, 4, source=5)), bias(4), linear),
    )
    return Network(layers, (6,))


@pytest.fixture
def images(rng):
    return models.dyadic_images(rng, 5, 6)


def received(layer, values):
    """What a layer receives, in NumPy; its connections are dense, multiplied or the identity."""
    total = 0
    for connection in layer.connections:
        x = np.asarray(values[connection.source], np.float64)
        for operation in connection.operations:
            dense = isinstance(operation, Dense)
            x = x @ np.asarray(operation.kernel) if dense else x * np.asarray(operation.factor)
        total = total + x
    return total, 0 if layer.bias is None else np.asarray(layer.bias, np.float64)


def by_hand(snn, inputs, rate=1.0):
    """Spikes of all layers [T, B, n] and scores, from the inputs of each step."""
    layers, batch = snn.network.layers, inputs.shape[1]
    potentials = [np.zeros((batch, *shape)) for shape in snn.network.shapes]
    if snn.initial_potentials is not None:
        potentials = [v + np.asarray(s) for v, s in zip(potentials, snn.initial_potentials)]
    sent = [1.0] * len(layers)
    for layer, row in zip(layers, snn.amplitudes, strict=True):
        for connection, weight in zip(layer.connections, row, strict=True):
            if weight is not None:
                sent[connection.source] = np.asarray(weight)
    spikes, scores = [[] for _ in layers], []
    for x in inputs:
        values = {INPUT: x}
        for index, layer in enumerate(layers):
            total, bias = received(layer, values)
            fired = np.zeros(total.shape)
            if layer.spiking or index == len(layers) - 1:
                potentials[index] = potentials[index] + total + bias * rate
                fired = (potentials[index] >= np.asarray(snn.thresholds[index])) * 1.0
            if layer.spiking:
                to_zero = snn.reset is jaxsnn.reset_to_zero
                down = potentials[index] if to_zero else np.asarray(snn.thresholds[index])
                potentials[index] = potentials[index] - fired * down
            values[index] = fired * sent[index] if layer.spiking else total
            spikes[index].append(fired)
        scores.append(potentials[-1])
    return [np.stack(layer) for layer in spikes], np.stack(scores)


def test_the_forward_pass(network, images):
    values = {INPUT: images}
    for index, layer in enumerate(network.layers):
        values[index] = sum(received(layer, values))
        if layer.spiking:
            values[index] = np.maximum(values[index], 0)
    for found, expected in zip(network.activations(images), list(values.values())[1:]):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_it_prints_its_sources(network):
    text = str(network)
    assert "layer 3: Dense 8 → 8 + identity of layer 1, bias → (8,)" in text
    assert "layer 4: Dense 8 → 5 + Dense 6 → 5 of the input, no ReLU → (5,)" in text
    assert "layer 6: Dense 5 → 8 of layer 4 + Multiply of layer 3 + identity of layer 2" in text


@pytest.mark.parametrize("encode", [jaxsnn.constant, jaxsnn.poisson])
@pytest.mark.parametrize("options", [{}, AHEAD], ids=["to zero", "by subtraction"])
@pytest.mark.parametrize("chunk", [1, 5])
@pytest.mark.thinned(3)
def test_spikes_and_scores_are_those_by_hand(network, images, encode, options, chunk):
    snn = jaxsnn.balance_thresholds(network, SCALES, **options)
    run = jaxsnn.simulate(
        snn,
        images,
        key=0,
        duration=STEPS * 1e-3,
        encode=encode,
        engine=jaxsnn.engines.Scan(chunk=chunk),
        record=lambda step: (step.inputs, step.spikes),
    )
    inputs, recorded = run.records
    spikes, scores = by_hand(snn, np.asarray(inputs, np.float64))
    for counts, each_step, expected in zip(run.spike_counts, recorded, spikes, strict=True):
        np.testing.assert_array_equal(each_step, expected)
        np.testing.assert_array_equal(counts, expected.sum(0))
    assert sum(layer.sum() for layer in spikes) > 0
    np.testing.assert_array_equal(run.scores, scores)
    np.testing.assert_array_equal(run.predictions, scores.argmax(-1))


def test_biases_follow_the_rate(network, images):
    snn = jaxsnn.balance_thresholds(network, SCALES, **AHEAD)
    options = {"encode": jaxsnn.constant, "max_rate": 250.0}
    run = jaxsnn.simulate(snn, images, key=0, duration=STEPS * 1e-3, **options)
    inputs = np.broadcast_to(images / 4, (STEPS, *images.shape))
    np.testing.assert_array_equal(run.scores, by_hand(snn, inputs, rate=0.25)[1])


def test_normalised_weights_give_the_same_spikes(network, images):
    runs = [
        jaxsnn.simulate(form(network, SCALES, **AHEAD), images, key=0, duration=0.02)
        for form in (jaxsnn.balance_thresholds, jaxsnn.normalize_weights)
    ]
    for one, other in zip(*(run.spike_counts for run in runs), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(runs[0].scores, runs[1].scores)


def test_rates_and_scores_approach_the_activations(network, images):
    scales = jaxsnn.percentile_scales(network, images, percentile=100)
    assert scales[3] == scales[6] == 1.0
    snn = jaxsnn.balance_thresholds(network, scales, **AHEAD)
    errors = []
    for steps in (50, 200, 800):
        options = {"duration": steps * 1e-3, "encode": jaxsnn.constant}
        run = jaxsnn.simulate(snn, images, key=0, **options)
        errors.append(np.abs(run.scores[-1] / steps - network(images)).max())
        layers = zip(run.activations(), network.activations(images), network.layers)
        for found, expected, layer in layers:
            if layer.spiking:
                largest = float(np.max(expected))
                assert np.abs(found - expected).max() <= 40 * largest / steps
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2


def test_a_sweep_is_a_call_of_simulate_for_each_point(network, images):
    labels = np.arange(5) % 4
    options = {"max_rate": [250.0, 1000.0], "threshold": [0.5, 1.0], "duration": 0.012}
    grid = jaxsnn.Grid(scales=SCALES, reset=jaxsnn.reset_by_subtraction, **options)
    data = jaxsnn.sweep(network, images, labels, grid, progress=False)
    for rate in grid.values("max_rate"):
        for multiplier in (0.5, 1.0):
            snn = jaxsnn.balance_thresholds(network, SCALES, reset=jaxsnn.reset_by_subtraction)
            thresholds = [multiplier * theta for theta in snn.thresholds]
            snn = jaxsnn.SpikingNetwork(
                network, thresholds, snn.amplitudes, None, jaxsnn.reset_by_subtraction
            )
            run = jaxsnn.simulate(snn, images, key=0, duration=0.012, max_rate=rate)
            point = data.sel(max_rate=rate, threshold=multiplier)
            accuracy = np.asarray(run.accuracy(labels), np.float64)
            np.testing.assert_allclose(point.accuracy.values.ravel(), accuracy, atol=1e-7)
            work = np.asarray(run.synaptic_operations, np.float64).mean()
            np.testing.assert_allclose(point.synaptic_operations.values.ravel()[-1], work)


def test_synapses_leave_every_source_on_all_its_connections(network):
    inputs, first, second, third, of_sum, *_ = jaxsnn.metrics.fan_out(network)
    layers = network.layers

    def leaving(layer, connection):
        return (np.asarray(layers[layer].connections[connection].operations[0].kernel) != 0).sum(1)

    np.testing.assert_array_equal(inputs, leaving(0, 0) + leaving(3, 1))
    np.testing.assert_array_equal(first, leaving(1, 0))  # the identity has none
    np.testing.assert_array_equal(second, leaving(2, 0))
    np.testing.assert_array_equal(third, leaving(3, 0) + 1)  # a factor of 0.5
    assert not np.any(of_sum)  # it sends no spikes
    every = [leaving(4, 0), leaving(5, 0), leaving(6, 0), leaving(6, 1)]
    sent = [inputs, first, second, third, *every]
    assert jaxsnn.metrics.dense_operations(network) == sum(float(part.sum()) for part in sent)


def test_what_takes_chains_only_says_so(network, images):
    with pytest.raises(ValueError, match=r"layer 4 of 7 .*percentile_scales"):
        jaxsnn.model_based_scales(network)


def test_amplitudes_belong_to_spikes(network, images):
    snn = jaxsnn.balance_thresholds(network, SCALES)
    assert [weight is None for weight in snn.amplitudes[5]] == [True, False, False]
    wrong = jaxsnn.SpikingNetwork(network, snn.thresholds, [[None], *[[1.0]] * 6])
    with pytest.raises(ValueError, match="one for each connection, and None"):
        jaxsnn.simulate(wrong, images, key=0, duration=0.004)
