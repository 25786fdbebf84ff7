"""The event-driven engine: a job in, the state and predictions at its end out, on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from math import ceil
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxsnn import neurons, readout, stopping
from jaxsnn.events import kinds
from jaxsnn.events.wiring import Wired, wire
from jaxsnn.fixed_point import FixedPointNetwork
from jaxsnn.network import remembered
from jaxsnn.state import Job, State

_RESETS: dict[neurons.Reset, int] = {
    neurons.reset_to_zero: kinds.TO_ZERO,
    neurons.reset_by_subtraction: kinds.BY_SUBTRACTION,
}
# Images that a thread takes at a time: few enough to share the work evenly.
_IMAGES_AT_ONCE = 8
_PARTS_PER_CORE = 4


class Numbers(NamedTuple):
    """The settings of a run for the kernels, as integers."""

    first_step: int
    steps: int
    refractory_steps: int
    reset: int
    stop: int
    stop_spikes: int
    stop_every: int


class Inputs(NamedTuple):
    """What is drawn: an input spikes if its draw of 16 bits is below `wanted`.

    ======  ===========  ===============================
    field   shape        meaning
    ======  ===========  ===============================
    wanted  [B, inputs]  65536 times the probability
    keys    [B, 2]       the words of each sample's key
    ======  ===========  ===============================
    """

    wanted: np.ndarray
    keys: np.ndarray


class Arrays(NamedTuple):
    """The state of a batch for the kernels; P neurons, filled up and in the order of the wiring.

    ============  ============  ==================================================
    field         shape         meaning
    ============  ============  ==================================================
    potentials    [B, P]        membrane potentials
    counts        [B, P]        spikes of each neuron
    free_from     [B, P or 0]   step from which a refractory neuron receives again
    input_counts  [B, inputs]   spikes of each input
    first_class   [B]           output neuron that spiked first, or -1
    first_step    [B]           steps until then
    exit_step     [B]           steps until the stop rule, or 0
    ============  ============  ==================================================
    """

    potentials: Any
    counts: Any
    free_from: Any
    input_counts: Any
    first_class: Any
    first_step: Any
    exit_step: Any


class Results(NamedTuple):
    """What the kernels write down of every step.

    ==========  ================  ==================================================
    field       shape             meaning
    ==========  ================  ==================================================
    output      [B, T, classes]   spikes of the output neurons
    potentials  [B, T, classes]   their potentials
    totals      [B, T, 1 + L]     spikes of the input and of each layer
    operations  [B, T]            synaptic operations
    ==========  ================  ==================================================
    """

    output: np.ndarray
    potentials: np.ndarray
    totals: np.ndarray
    operations: np.ndarray


class Watched(NamedTuple):
    """A run of the kernels: what they counted, what they saw, and what was read from it.

    Attributes:
        arrays: the state at the end.
        results: what happened in every step.
        predictions: the class after every step `[T, B]`.
    """

    arrays: Arrays
    results: Results
    predictions: Array


def simulate_events(job: Job, advance: Callable[[int], Any]) -> tuple[State, Array, None]:
    """Simulate a job that `serve` has found fit.

    Args:
        job: the job.
        advance: called with the number of image-steps that were done.

    Returns:
        The last state, the predictions of every step `[T, B]`, and no records.
    """
    wired = wired_network(_integers(job))
    watched = watch(job, wired, advance)
    return _state(job, wired, watched.arrays), watched.predictions, None


def watch(job: Job, wired: Wired, advance: Callable[[int], Any]) -> Watched:
    """Run the kernels on a job, and read the class after every step."""
    arrays = _arrays(job, wired)
    counts, first_class = arrays.counts[:, _output(wired)], arrays.first_class.copy()
    results = _run_kernels(job, wired, arrays, advance)
    if not wired.in_order[-1]:
        results = _in_order(job, wired, arrays, results, first_class < 0)
    network = _integers(job)
    predictions = _read(
        results.output,
        results.potentials,
        counts,
        np.where(first_class < 0, arrays.first_step, 0),
        arrays.first_class,
        _first_step(job),
        network.units[-1],
        network.thresholds[-1],
        read=job.rules.read,
    )
    return Watched(arrays, results, predictions)


def _in_order(
    job: Job, wired: Wired, arrays: Arrays, results: Results, silent: np.ndarray
) -> Results:
    """The output neurons in their own order, of which the lowest comes first in a tie."""
    order = wired.orders[-1]
    output, potentials = results.output[..., order], results.potentials[..., order]
    new = np.flatnonzero(silent & (arrays.first_class >= 0))
    steps = arrays.first_step[new] - 1 - _first_step(job)
    arrays.first_class[new] = output[new, steps].argmax(-1)
    return results._replace(output=output, potentials=potentials)


def _integers(job: Job) -> FixedPointNetwork:
    assert isinstance(job.network, FixedPointNetwork)
    return job.network


def wired_network(network: FixedPointNetwork) -> Wired:
    """The arrays of a network, made once."""
    return remembered(network, "wired", wire)


def _run_kernels(job: Job, wired: Wired, arrays: Arrays, advance: Callable[[int], Any]) -> Results:
    """Bring the arrays forward by the job's steps, on all cores, and write down the results."""
    from jaxsnn.events.kernels import simulate_images

    batch, network = len(job.images), job.network
    (classes,) = network.network.shapes[-1]
    layers = len(network.network.layers)
    results = Results(
        np.zeros((batch, job.steps, classes), np.uint8),
        np.zeros((batch, job.steps, classes), np.int32),
        np.zeros((batch, job.steps, 1 + layers), np.int32),
        np.zeros((batch, job.steps), np.int64),
    )
    wiring = _fitting_kinds(job, wired, arrays)
    numbers, inputs = _numbers(job), _inputs(job)

    def work(images: np.ndarray) -> int:
        simulate_images(images, wiring, numbers, inputs, arrays, results)
        return len(images)

    for done in _on_all_cores(work, batch):
        advance(done * job.steps)
    return results


def _on_all_cores(work: Any, batch: int) -> Iterator[int]:
    """Work on the images of a batch, a few at a time."""
    at_once = min(_IMAGES_AT_ONCE, ceil(batch / (_PARTS_PER_CORE * _cores())))
    parts = [np.arange(start, min(start + at_once, batch)) for start in range(0, batch, at_once)]
    if len(parts) == 1:
        return iter([work(parts[0])])
    return _threads().map(work, parts)


@lru_cache
def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), "jaxsnn-events")


# -- Into the kernels ------------------------------------------------------------------------------


def _numbers(job: Job) -> Numbers:
    stop = job.rules.stop
    found = kinds.NO_STOP, 0, 0
    if stop is stopping.first_spike:
        found = kinds.FIRST_SPIKE, 0, 0
    elif isinstance(stop, stopping.Margin):
        found = kinds.MARGIN, stop.spikes, stop.every
    reset = _RESETS[job.rules.reset]
    return Numbers(_first_step(job), job.steps, job.refractory_steps, reset, *found)


def _first_step(job: Job) -> int:
    return 0 if job.state is None else int(job.state.step)


def _inputs(job: Job) -> Inputs:
    # To the nearest, as `encoding.poisson` does.
    probabilities = np.asarray(job.probabilities).reshape(len(job.images), -1)
    wanted = np.rint(probabilities * np.float32(1 << 16)).astype(np.uint32)
    return Inputs(wanted, np.asarray(job.keys))


def _fitting_kinds(job: Job, wired: Wired, arrays: Arrays) -> Any:
    """The wiring; a pooling neuron without input must never be at its threshold.

    It could be if it started there, or if a reset by subtraction left it there. Then all neurons of
    the layer have to be looked at in each step.
    """
    wiring, found = wired.wiring, wired.wiring.kinds.copy()
    if found[0] == kinds.POOL:  # inputs are added by runs
        found[0] = kinds.SCATTER
    for layer in np.flatnonzero(found == kinds.POOL):
        places = slice(*wiring.first[layer : layer + 2])
        thresholds = wiring.thresholds[places]
        most = wiring.gains[layer] * wired.window[layer]
        left = job.rules.reset is neurons.reset_by_subtraction and most > thresholds.min()
        if left or np.any(arrays.potentials[:, places] >= thresholds):
            found[layer] = kinds.SCATTER
    return wiring._replace(kinds=found)


def _arrays(job: Job, wired: Wired) -> Arrays:
    """The state of a job in the order of the wiring."""
    batch, network = len(job.images), job.network.network
    first = wired.wiring.first
    inputs = int(np.prod(network.input_shape))
    refractory = first[-1] if job.refractory_steps > 1 else 0
    arrays = Arrays(
        np.zeros((batch, first[-1]), np.int32),
        np.zeros((batch, first[-1]), np.int32),
        np.zeros((batch, refractory), np.int32),
        np.zeros((batch, inputs), np.int32),
        np.full(batch, -1, np.int32),
        np.zeros(batch, np.int32),
        np.zeros(batch, np.int32),
    )
    state = job.state
    for layer, (order, start) in enumerate(zip(wired.orders, first, strict=False)):
        places = start + order.reshape(-1)
        values = job.potentials[layer] if state is None else state.neurons[layer].potential
        if state is None and not np.any(values):
            continue
        values = np.broadcast_to(np.asarray(values), (batch, *order.shape)).reshape(batch, -1)
        arrays.potentials[:, places] = values
        if state is not None:
            arrays.counts[:, places] = np.asarray(state.spike_counts[layer]).reshape(batch, -1)
            waiting = state.neurons[layer].refractory
            if waiting is not None:
                arrays.free_from[:, places] = state.step + np.asarray(waiting).reshape(batch, -1)
    if state is not None:
        arrays.input_counts[:] = np.asarray(state.input_spike_counts).reshape(batch, -1)
        arrays.first_class[:] = state.first_spike_class
        arrays.first_step[:] = state.first_spike_step
    return arrays


# -- And out again ---------------------------------------------------------------------------------


def _in_shape(values: np.ndarray, wired: Wired, layer: int) -> Any:
    """Values [B, P] of the neurons of a layer in their own shape; a view where that is possible."""
    start, order = wired.wiring.first[layer], wired.orders[layer]
    if wired.in_order[layer]:
        part = values[:, start : start + order.size]
        return part.reshape(len(values), *order.shape)
    return values[:, start + order]


def _state(job: Job, wired: Wired, arrays: Arrays) -> State:
    step = np.asarray(_first_step(job) + job.steps, np.int32)
    layers = range(len(wired.orders))

    def waiting(layer: int) -> Any:
        if arrays.free_from.shape[1] == 0:
            return None
        return np.maximum(_in_shape(arrays.free_from, wired, layer) - step, 0)

    return State(
        step=cast(Array, step),
        neurons=[
            neurons.NeuronState(_in_shape(arrays.potentials, wired, layer), waiting(layer))
            for layer in layers
        ],
        input_spike_counts=arrays.input_counts.reshape(np.shape(job.images)),
        spike_counts=[_in_shape(arrays.counts, wired, layer) for layer in layers],
        first_spike_class=arrays.first_class,
        first_spike_step=arrays.first_step,
        exit_step=arrays.exit_step,
        samples=job.samples,
        dt=cast(Array, np.float32(job.dt)),
        refractory_steps=cast(Array, np.asarray(job.refractory_steps, np.int32)),
    )


def _output(wired: Wired) -> np.ndarray:
    """The output neurons among all, in their own order."""
    return wired.wiring.first[-2] + wired.orders[-1]


@partial(jax.jit, static_argnames="read")
def _read(
    output: Array,
    potentials: Array,
    counts: Array,
    first_step: Array,
    first_class: Array,
    done: ArrayLike,
    unit: Array,
    threshold: Array,
    *,
    read: readout.Readout,
) -> Array:
    """What the network says after every step [T, B]."""
    output, potentials = output.swapaxes(0, 1), potentials.swapaxes(0, 1)
    so_far = counts + output.cumsum(0, dtype=counts.dtype)
    real = jnp.result_type(float)
    ends = jnp.asarray(done) + 1 + jnp.arange(len(output))

    def at(end: Array, so_far: Array, potential: Array) -> Array:
        known = jnp.where(first_step <= end, first_class, -1)
        seen = readout.Output(so_far.astype(real), potential * unit, threshold * unit, known)
        return read(seen)

    return jax.vmap(at)(ends, so_far, potentials)
