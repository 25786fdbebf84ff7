"""The report of a conversion: its numbers computed again by hand, and the advice that it gives."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsnn

from models import dense_weights

AHEAD = {"initial_potential": 0.5, "reset": jaxsnn.reset_by_subtraction}


@pytest.fixture
def images(rng):
    return rng.random((37, 12)).astype(np.float32)


def stream(weights):
    """Layers that read a sum of products: a ReLU, a sum, its ReLU, logits."""
    first, second, third = (jnp.asarray(w, jnp.float32) for w in weights)

    def model(x):
        x = jax.nn.relu(x @ first) @ second + 0.25
        return (jax.nn.relu(x) + 0.5 * x) @ third

    return model


@pytest.fixture
def network(rng, images):
    return jaxsnn.read_network(stream(dense_weights(rng)), images)


def converted(network, images, **settings):
    options = {**AHEAD, "encode": jaxsnn.constant, **settings}
    return jaxsnn.balance_thresholds(
        network, jaxsnn.percentile_scales(network, images, percentile=99), **options
    )


def test_its_numbers_are_those_by_hand(network, images):
    snn = converted(network, images)
    labels = np.arange(37) % 4
    report = jaxsnn.report(snn, images, labels=labels, duration=0.016, batch_size=10)
    run = jaxsnn.simulate(snn, images, key=0, duration=0.016)
    activations = [np.asarray(a, float) for a in network.activations(images)]
    assert (report.images, report.steps, len(report.table)) == (37, 16, len(network.layers))
    classes = activations[-1].argmax(-1)
    assert report.agreement == np.mean(classes == run.predictions[-1])
    assert report.accuracy == np.mean(labels == run.predictions[-1])
    assert report.relu_accuracy == np.mean(labels == classes)
    assert report.additions == jaxsnn.metrics.additions(network)
    estimates = [np.asarray(s, float) for s in run.activations()]
    sums = [index for index, layer in enumerate(network.layers[:-1]) if not layer.spiking]
    assert sums
    for index, (number, row) in enumerate(report.table.iterrows()):
        assert number == index + 1
        assert row["layer"] == network.layers[index].kind
        if index in sums:
            assert row["neurons"] == 0
            assert np.isnan(row["error"])
            continue
        a, s = activations[index], estimates[index]
        assert row["largest_activation"] == a.max()
        np.testing.assert_allclose(row["correlation"], np.corrcoef(a.flat, s.flat)[0, 1], 1e-6)
        np.testing.assert_allclose(row["error"], np.linalg.norm(a - s) / np.linalg.norm(a), 1e-5)
        spikes = np.asarray(run.spike_counts[index])
        assert row["spikes"] == spikes.sum() / 37
        if network.layers[index].spiking:
            scale = float(snn.thresholds[index])
            np.testing.assert_allclose(row["scale"], scale, 1e-6)
            assert row["above_scale"] == np.mean(a > scale)
            assert row["saturated"] == np.mean(spikes == 16)
            activated = a.max(0) > 0
            assert row["silent"] == np.mean(spikes[:, activated].sum(0) == 0)
    expected = float(np.mean(np.asarray(run.synaptic_operations)))
    np.testing.assert_allclose(report.table["operations"].sum(), expected, 1e-6)


def test_batches_do_not_matter(network, images):
    snn = jaxsnn.balance_thresholds(network, 1.0)  # random spikes
    tables = [jaxsnn.report(snn, images, key=3, batch_size=size).table for size in (37, 8)]
    for name in ("spikes", "saturated", "silent", "operations"):
        np.testing.assert_array_equal(*(table[name] for table in tables))
    np.testing.assert_allclose(*(table["error"] for table in tables), rtol=1e-5)


def test_a_good_conversion_needs_no_advice(network, images):
    snn = jaxsnn.balance_thresholds(
        network,
        jaxsnn.percentile_scales(network, images, percentile=100),
        **AHEAD,
        encode=jaxsnn.constant,
    )
    report = jaxsnn.report(snn, images, duration=0.5)
    assert report.agreement == 1
    assert report.advice == ()
    assert "Nothing is off." in str(report)


def deep(rng, layers=5):
    sizes = (12, *[24] * layers, 4)
    weights = [jnp.asarray(rng.normal(size=p) / np.sqrt(p[0] / 2), jnp.float32)
               for p in itertools.pairwise(sizes)]  # fmt: skip

    def model(x):
        for w in weights[:-1]:
            x = jax.nn.relu(x @ w)
        return x @ weights[-1]

    return model


@pytest.mark.parametrize(
    ("scales", "factor", "settings", "advice"),
    [
        (
            60.0,
            1,
            AHEAD,
            r"Layer 1 never spikes, since λ is .* times .*: use percentile_scales, and",
        ),
        (lambda a: 1.9 * a, 1, {}, "Layer [0-9].* never spikes.*initial_potential=0.5"),
        (lambda a: 0.3 * a, 1, AHEAD, "Layer 1 clips .* which exceed λ.*: check that these images"),
        (lambda a: 0.6 * a, 2, AHEAD, "Layer [0-9] clips .*: raise the percentile"),
        (lambda a: 5 * a, 16, AHEAD, "spikes rarely, since λ is 5 times .*larger max_rate"),
        (lambda a: a, 4, {}, r"has an error of 0\.\d+.*: in a deep network.* reset_by_subtraction"),
        (lambda a: a, 1, {"reset": jaxsnn.reset_by_subtraction}, "start at half the thresholds"),
        (lambda a: a, 1, AHEAD, "has an error of .*: simulate longer, since errors fall with time"),
    ],
    ids=["far above", "silent", "other images", "clipped", "rare", "reset", "late", "short"],
)
def test_what_is_off_is_named_with_its_remedy(rng, images, scales, factor, settings, advice):
    network = jaxsnn.read_network(deep(rng), images)
    if callable(scales):
        scales = [max(float(scales(a)), 1e-3) for a in jaxsnn.largest_activations(network, images)]
    snn = jaxsnn.balance_thresholds(network, scales, encode=jaxsnn.constant, **settings)
    found = jaxsnn.report(snn, images, duration=factor * 4e-3)
    print(found)
    assert len(found.advice) <= 3
    assert any(re.search(advice, line) for line in found.advice)


def test_outputs_that_spike_equally_often():
    """By hand: from 1/2, currents of 0.6 and 0.5 each make one spike in two steps."""
    network = jaxsnn.read_network(jax.nn.relu, jnp.zeros((1, 2)))
    snn = jaxsnn.balance_thresholds(network, 1.0, **AHEAD, encode=jaxsnn.constant)
    images, how = jnp.array([[0.6, 0.5], [0.5, 0.6], [0.9, 0.1]]), {"key": 0, "steps": 2}
    assert jaxsnn.simulate(snn, images, **how).spike_counts[0].tolist() == [[1, 1], [1, 1], [2, 0]]
    (advice,) = jaxsnn.report(snn, images, steps=2).advice
    assert advice.startswith("Several outputs have spiked equally often for 67 % of the images")
    by_scores = jaxsnn.simulate(snn, images, read=jaxsnn.readout.score, **how)
    assert by_scores.predictions[-1].tolist() == [0, 1, 0]
    assert jaxsnn.report(snn, images[2:], steps=2).advice == ()


def test_it_prints_and_draws(network, images):
    report = jaxsnn.report(converted(network, images), images, labels=np.zeros(37, int))
    text = str(report)
    assert "accuracy" in text
    assert f"{32 * report.additions.biases:,} additions of biases" in text
    assert "test_report.py:" in text
    assert "nan" not in text
    assert "<table" in report._repr_html_()
    figure = report.plot()
    errors, shares, costs = figure.axes
    assert [bar.get_width() for bar in errors.patches] == pytest.approx(
        report.table["error"].tolist(), nan_ok=True
    )
    assert len(shares.patches) == 2 * len(report.table)
    assert len(costs.lines) == 2


def test_in_fixed_point(rng, images):
    weights = [jnp.asarray(w, jnp.float32) for w in dense_weights(rng)]
    network = jaxsnn.read_network(
        lambda x: jax.nn.relu(jax.nn.relu(x @ weights[0]) @ weights[1]), images
    )
    snn = jaxsnn.balance_thresholds(network, jaxsnn.percentile_scales(network, images))
    report = jaxsnn.report(snn, images, arithmetic=jaxsnn.FixedPoint(16), duration=0.05)
    run = jaxsnn.simulate(snn, images, key=0, duration=0.05, arithmetic=jaxsnn.FixedPoint(16))
    spikes = [np.asarray(counts).sum() / 37 for counts in run.spike_counts]
    assert report.table["spikes"].tolist() == spikes


def test_labels_are_checked_before_the_work(network, images):
    snn = converted(network, images)
    with pytest.raises(ValueError, match=r"labels have shape \(3,\).*each of 37 images"):
        jaxsnn.report(snn, images, labels=[0, 1, 2])
    with pytest.raises(ValueError, match="labels range from 0 to 9"):
        jaxsnn.report(snn, images, labels=[9] + [0] * 36)
    with pytest.raises(ValueError, match="batch_size=0"):
        jaxsnn.report(snn, images, batch_size=0)
    with pytest.raises(TypeError, match="snn"):
        jaxsnn.report(network, images)
    with pytest.raises(ValueError, match="lacks"):
        jaxsnn.plotting.plot_layers([])


def test_what_merged_poolings_would_cost(rng):
    """Each spike in front of a pooling then reaches all outputs, in the place of one neuron."""
    kernel, last = jnp.asarray(rng.normal(size=(1, 1, 1, 4))), jnp.asarray(rng.normal(size=(16, 5)))

    def model(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
        x = jax.nn.relu(jax.nn.relu(x).reshape(-1, 2, 2, 2, 2, 4).mean((2, 4)))
        return x.reshape(-1, 16) @ last

    images = rng.random((7, 4, 4, 1)).astype(np.float32)
    snn = converted(jaxsnn.read_network(model, images), images)
    report = jaxsnn.report(snn, images, duration=0.016)
    of_input, spikes = report.table["operations"][1], report.table["spikes"][1]
    assert report.merging == (1, of_input + 5 * spikes)
    assert f"save 1 layer of neurons, for {of_input + 5 * spikes:,.0f} operations" in str(report)
