"""Spikes as events, for the tools of event data, and events as spikes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from jaxsnn.metrics import real_numbers
from jaxsnn.support.typed import Count, Numbers, typed

_FIELDS = ("time", "sample", "neuron")
_ROUNDING = 1e-6  # of times, which may be float32


@typed
def to_events(spikes: Numbers, times: Numbers) -> np.ndarray:
    """The spikes of one layer as events, in the order of time, sample and neuron.

    Args:
        spikes: 0 or 1, `[T, B, ...]`, as `simulate` records them: with
            `record=lambda step: step.spikes`, `run.records` has one such array for each layer.
        times: time at the end of every step in seconds `[T]`, such as `run.times`.

    Returns:
        A structured array `[events]` with the fields `time`, of the type of the times; `sample`,
        the place in the batch; and `neuron`, the place among the layer's neurons in row-major
        order.

    Raises:
        ValueError: values that are no spikes, or not as many times as steps.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), jnp.zeros((1, 2)))
        >>> snn = jaxsnn.balance_thresholds(network, 1.0)
        >>> run = jaxsnn.simulate(snn, jnp.array([[0.0, 1.0]]), key=0, duration=0.004,
        ...                       record=lambda step: step.spikes)
        >>> (events,) = [jaxsnn.to_events(layer, run.times) for layer in run.records]
        >>> (1000 * events["time"]).round().tolist(), events["neuron"].tolist()
        ([2.0, 4.0], [1, 1])
    """
    found = real_numbers("spikes", spikes, bools=True)
    seconds = _checked_times(times)
    if found.ndim < 2 or len(found) != len(seconds):
        raise ValueError(
            f"spikes has shape {found.shape} and times {seconds.shape}; they must be [T, B, ...] "
            "and [T], as run.records and run.times."
        )
    if not np.all((found == 0) | (found == 1)):
        raise ValueError(
            f"spikes has values from {found.min():g} to {found.max():g}; spikes are 0 or 1, as in "
            "Step.spikes. Currents and potentials are no events."
        )
    step, sample, neuron = np.nonzero(found.reshape(*found.shape[:2], -1))
    values = dict(zip(_FIELDS, (seconds[step], sample, neuron)))
    events = np.empty(len(step), [(name, column.dtype) for name, column in values.items()])
    for name, column in values.items():
        events[name] = column
    return events


@typed
def from_events(events: np.ndarray, times: Numbers, shape: Sequence[Any]) -> np.ndarray:
    """The spikes `[T, B, ...]` that events are of, as `plotting.plot_raster` and others take them.

    Args:
        events: a structured array with the fields `time`, `sample` and `neuron`, in any order.
        times: time at the end of every step in seconds `[T]`.
        shape: shape of the spikes of one step, `[B, ...]`: samples and neurons of the layer.

    Returns:
        An array of 0 and 1 `[T, B, ...]`, float32.

    Raises:
        ValueError: there are no such fields, an event is at the time of no step or of a sample or
            neuron that the shape has not, or there are two events for one spike.

    Example:
        >>> import numpy as np, jaxsnn
        >>> spikes = np.array([[[0, 1]], [[1, 0]]])  # 2 steps, a sample, 2 neurons
        >>> times = np.array([0.001, 0.002])
        >>> jaxsnn.from_events(jaxsnn.to_events(spikes, times), times, (1, 2)).tolist()
        [[[0.0, 1.0]], [[1.0, 0.0]]]
    """
    seconds, sizes = _checked_times(times), tuple(shape)
    if not set(_FIELDS) <= set(events.dtype.names or ()):
        raise ValueError(
            f"events has the fields {events.dtype.names}; it must have time, sample and neuron, as "
            "those of to_events."
        )
    # All of them: the check of a type looks at one entry of a sequence, picked at random.
    if len(sizes) < 2 or not all(isinstance(size, Count) and size >= 1 for size in sizes):
        raise ValueError(f"shape={sizes}; it must be [B, ...], numbers of samples and of neurons.")
    step = np.searchsorted(seconds, events["time"] * (1 - _ROUNDING)).clip(max=len(seconds) - 1)
    places = step, events["sample"], events["neuron"]
    found = np.zeros((len(seconds), sizes[0], prod(sizes[1:])), np.float32)
    inside = [(place >= 0) & (place < size) for place, size in zip(places, found.shape)]
    fits = np.isclose(seconds[step], events["time"], rtol=_ROUNDING, atol=0) & np.all(inside, 0)
    if not np.all(fits):
        raise ValueError(
            f"the event {events[~fits][0]} is at the time of no step, or beyond the {sizes[0]} "
            f"samples and {found.shape[2]} neurons of shape={sizes}."
        )
    np.add.at(found, places, 1)
    if found.max() > 1:
        raise ValueError("two events are of one spike: a neuron spikes at most once in a step.")
    return found.reshape(-1, *sizes)


def _checked_times(times: Any) -> np.ndarray:
    """Times that rise, as an array."""
    seconds = real_numbers("times", times)
    if seconds.ndim != 1 or not len(seconds) or np.any(np.diff(seconds) <= 0):
        raise ValueError(
            f"times has shape {seconds.shape}; it must be [T] with rising times of the ends of "
            "the steps, such as run.times."
        )
    return seconds
