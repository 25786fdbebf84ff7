"""The event-driven engine: a job in, the state and predictions at its end out, on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from math import ceil, prod
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
from jaxsnn.network import AnyArray, Network, remembered
from jaxsnn.scan import output_seen
from jaxsnn.state import Job, State, parts_of_time

_RESETS: dict[neurons.Reset, int] = {
    neurons.reset_to_zero: kinds.TO_ZERO,
    neurons.reset_by_subtraction: kinds.BY_SUBTRACTION,
}
# Images that a thread takes at a time: few enough to share the work evenly.
_IMAGES_AT_ONCE = 8
_PARTS_PER_CORE = 4
# Steps that are written down at a time: what a progress bar waits for, too.
STEPS_AT_ONCE = 200
_STEPS_BETWEEN_EXITS = 50
_BYTES_OF_RESULTS = 1 << 26


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
    """Some steps of a run: what happened in each, and the class after each `[T, B]`."""

    results: Results
    predictions: Array


def simulate_events(job: Job, advance: Callable[[int], Any]) -> tuple[State, AnyArray, None]:
    """Simulate a job that `serve` has found fit.

    Args:
        job: the job.
        advance: called with the number of image-steps that were done.

    Returns:
        The last state, the predictions of every step `[T, B]`, and no records.
    """
    wired = wired_network(_integers(job))
    arrays = start(job, wired)
    parts: list[Any] = [watched.predictions for watched in watch(job, wired, arrays, advance)]
    left = job.steps - sum(map(len, parts))
    if left:  # a stop rule has ended all samples
        parts.append(np.full((left, len(job.images)), -1, parts[0].dtype))
        advance(left * len(job.images))
    # By NumPy, which compiles nothing for each number of parts.
    predictions = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return _state(job, wired, arrays), cast(Array, predictions), None


def watch(
    job: Job, wired: Wired, arrays: Arrays, advance: Callable[[int], Any]
) -> Iterator[Watched]:
    """Bring the arrays forward by the job's steps, in parts, so that no memory grows with them.

    It ends before the last step if a stop rule has ended all samples.
    """
    inputs, network, done = _inputs(job), _integers(job), _steps_done(job)
    wired = wired._replace(wiring=_fitting_kinds(job, wired, arrays))
    for steps in parts_of_time(job.steps, _fitting_steps(job)):
        counts, first_class = arrays.counts[:, _output(wired)], arrays.first_class.copy()
        numbers = _numbers(job, done, steps)
        results = _run_kernels(wired, numbers, inputs, arrays, advance)
        if not wired.in_order[-1]:
            results = _in_order(wired, arrays, results, first_class < 0, done)
        predictions = _read(
            results.output,
            results.potentials,
            counts,
            np.where(first_class < 0, arrays.first_step, 0),
            arrays.first_class,
            done,
            network.units[-1],
            network.thresholds[-1],
            read=job.rules.read,
        )
        # The next steps write to what is read here, and results must not pile up.
        yield Watched(results, jax.block_until_ready(predictions))
        done += steps
        if np.all(arrays.exit_step > 0):
            return


def _fitting_steps(job: Job) -> int:
    """How many steps to write down at a time."""
    fitting = _BYTES_OF_RESULTS // (bytes_of_step(job.network.network) * len(job.images))
    return max(1, min(fitting, STEPS_AT_ONCE if job.stop is None else _STEPS_BETWEEN_EXITS))


def bytes_of_step(network: Network) -> int:
    """The bytes of `Results` that an image takes in a step."""
    return 5 * prod(network.shapes[-1]) + 4 * (1 + len(network.layers)) + 8


def _in_order(
    wired: Wired, arrays: Arrays, results: Results, silent: np.ndarray, done: int
) -> Results:
    """The output neurons in their own order, of which the lowest comes first in a tie."""
    order = wired.orders[-1]
    output, potentials = results.output[..., order], results.potentials[..., order]
    new = np.flatnonzero(silent & (arrays.first_class >= 0))
    steps = arrays.first_step[new] - 1 - done
    arrays.first_class[new] = output[new, steps].argmax(-1)
    return results._replace(output=output, potentials=potentials)


def _integers(job: Job) -> FixedPointNetwork:
    assert isinstance(job.network, FixedPointNetwork)
    return job.network


def wired_network(network: FixedPointNetwork) -> Wired:
    """The arrays of a network, made once."""
    return remembered(network, "wired", wire)


def _run_kernels(
    wired: Wired, numbers: Numbers, inputs: Inputs, arrays: Arrays, advance: Callable[[int], Any]
) -> Results:
    """Bring the arrays forward by some steps, on all cores, and write down the results."""
    from jaxsnn.events.kernels import simulate_images

    batch, steps = len(inputs.keys), numbers.steps
    classes, layers = wired.orders[-1].size, len(wired.orders)
    results = Results(
        np.zeros((batch, steps, classes), np.uint8),
        np.zeros((batch, steps, classes), np.int32),
        np.zeros((batch, steps, 1 + layers), np.int32),
        np.zeros((batch, steps), np.int64),
    )

    def work(images: np.ndarray) -> int:
        simulate_images(images, wired.wiring, numbers, inputs, arrays, results)
        return len(images)

    for done in _on_all_cores(work, batch):
        advance(done * steps)
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


def _numbers(job: Job, first_step: int, steps: int) -> Numbers:
    stop = job.stop
    found = kinds.NO_STOP, 0, 0
    if stop is stopping.first_spike:
        found = kinds.FIRST_SPIKE, 0, 0
    elif isinstance(stop, stopping.Margin):
        found = kinds.MARGIN, stop.spikes, stop.every
    reset = _RESETS[job.rules.reset]
    return Numbers(first_step, steps, job.refractory_steps, reset, *found)


def _steps_done(job: Job) -> int:
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
    for layer in np.flatnonzero(found == kinds.POOL):
        places = slice(*wiring.first[layer : layer + 2])
        thresholds = wiring.thresholds[places]
        most = wiring.gains[layer] * wired.window[layer]
        left = job.rules.reset is neurons.reset_by_subtraction and most > thresholds.min()
        if left or np.any(arrays.potentials[:, places] >= thresholds):
            found[layer] = kinds.SCATTER
    return wiring._replace(kinds=found)


def start(job: Job, wired: Wired) -> Arrays:
    """The state in which a job begins, in the order of the wiring."""
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
    step = np.asarray(_steps_done(job) + job.steps, np.int32)
    for array in arrays:  # what a run has counted is also part of its state
        array.flags.writeable = False
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
        grid=job.grid,
        origin=job.origin,
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
    ends = jnp.asarray(done) + 1 + jnp.arange(len(output))

    def at(end: Array, so_far: Array, potential: Array) -> Array:
        known = jnp.where(first_step <= end, first_class, -1)
        return read(output_seen(so_far, potential, threshold, unit, known))

    return jax.vmap(at)(ends, so_far, potentials)
