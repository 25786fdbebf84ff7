"""Spikes as events and back."""

import numpy as np
import pytest

import jaxsnn
from jaxsnn import plotting

import models

SHAPES = [(14, 14, 1), (12, 12, 4)]


@pytest.fixture(scope="module")
def run():
    """Three samples of a convolutional network, with the spikes of the input and of each layer."""
    network, _ = models.convolution_network(np.random.default_rng(1))
    snn = jaxsnn.balance_thresholds(network, 0.5)
    images = models.dyadic_images(np.random.default_rng(2), 3, *models.IMAGE_SHAPE)
    return jaxsnn.simulate(
        snn,
        images,
        key=1,
        duration=0.006,
        engine="scan",
        record=lambda step: [step.inputs, *step.spikes],
    )


def test_events_are_the_spikes_that_were_counted(run):
    counts = [run.input_spike_counts, *run.spike_counts]
    for layer, count in zip(run.records, counts, strict=True):
        events = jaxsnn.to_events(layer, run.times)
        assert events.dtype.names == ("time", "sample", "neuron")
        found = np.zeros((3, np.prod(count.shape[1:])))
        for time, sample, neuron in events.tolist():
            found[sample, neuron] += 1
            assert np.float32(time) in np.asarray(run.times)
        assert found.sum() > 0
        np.testing.assert_array_equal(found.reshape(count.shape), count)
        order = np.lexsort((events["neuron"], events["sample"], events["time"]))
        np.testing.assert_array_equal(order, np.arange(len(events)))


def test_events_become_the_same_spikes_again(run, rng):
    for layer in run.records:
        events = jaxsnn.to_events(layer, run.times)
        # In any order, and with times in the floats of Python that stand for those of the steps.
        others = np.empty(len(events), [("neuron", "i4"), ("time", "f8"), ("sample", "u1")])
        for name in events.dtype.names:
            others[name] = events[name]
        others["time"] = np.round(others["time"], 6)
        for given in (events, rng.permutation(others)):
            found = jaxsnn.from_events(given, run.times, layer.shape[1:])
            np.testing.assert_array_equal(found, layer)


def test_times_of_a_run_that_was_resumed_go_on():
    network, _ = models.dense_network(np.random.default_rng(0))
    snn = jaxsnn.balance_thresholds(network, 1.0)
    images = models.dyadic_images(np.random.default_rng(2), 2, 12)
    options = {"key": 3, "engine": "scan", "record": last_spikes, "duration": 0.004}
    first = jaxsnn.simulate(snn, images, **options)
    second = jaxsnn.simulate(snn, images, state=first.state, **options)
    events = [jaxsnn.to_events(run.records, run.times)["time"] for run in (first, second)]
    assert len(events[1])
    assert min(events[1]) > 0.0045 > 0.0035 > 0 <= min(events[0])


def last_spikes(step):
    return step.spikes[-1]


def test_a_raster_from_events_is_the_raster_of_the_spikes(run):
    spikes = [np.asarray(layer)[:, 1] for layer in run.records]
    again = [
        jaxsnn.from_events(jaxsnn.to_events(layer, run.times), run.times, layer.shape[1:])[:, 1]
        for layer in run.records
    ]
    drawn = [
        [
            dots.get_offsets().tolist()
            for ax in plotting.plot_raster(made).axes
            for dots in ax.collections
        ]
        for made in (spikes, again)
    ]
    assert drawn[0] == drawn[1]
    assert sum(map(len, drawn[0])) > 100


EVENTS = np.array([(0.001, 0, 1)], [("time", "f8"), ("sample", "i8"), ("neuron", "i8")])


@pytest.mark.parametrize(
    "change", [{"time": 0.0015}, {"time": 0.003}, {"sample": 2}, {"neuron": -1}]
)
def test_events_that_are_of_no_spike(change):
    events = EVENTS.copy()
    assert jaxsnn.from_events(events, [0.001, 0.002], (1, 2)).sum() == 1
    for name, value in change.items():
        events[name] = value
    with pytest.raises(ValueError, match=r"the event .* is at the time of no step, or beyond"):
        jaxsnn.from_events(events, [0.001, 0.002], (1, 2))


def test_two_events_of_one_spike():
    with pytest.raises(ValueError, match="two events"):
        jaxsnn.from_events(np.repeat(EVENTS, 2), [0.001, 0.002], (1, 2))
