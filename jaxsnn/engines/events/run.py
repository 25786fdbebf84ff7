"""The event-driven engine: a run in, the state and predictions at its end out, on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from math import ceil, prod
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.dtypes import canonicalize_dtype
from jaxtyping import Array

from jaxsnn import encoding, neurons, readout, stopping
from jaxsnn.conversion.executable import Executable
from jaxsnn.conversion.rounding import NUMBER_BITS
from jaxsnn.engines.base import (
    Run,
    State,
    Trajectory,
    arithmetic_of,
    bytes_of_step,
    no_progress,
    output_seen,
    received_so_far,
    segments,
)
from jaxsnn.engines.events import kinds
from jaxsnn.engines.events.layout import Layout, lay_out, with_thresholds
from jaxsnn.engines.events.runs import UnsupportedError
from jaxsnn.support.arrays import cached
from jaxsnn.support.digests import digest

RESETS: dict[neurons.Reset, int] = {
    neurons.reset_to_zero: kinds.TO_ZERO,
    neurons.reset_by_subtraction: kinds.BY_SUBTRACTION,
}
# Images that a thread takes at a time: few enough to share the work evenly.
_IMAGES_AT_ONCE = 8
_PARTS_PER_CORE = 4
# Steps that are written down at a time: what a progress bar waits for, too.
_STEPS_AT_ONCE = 200
_STEPS_BETWEEN_EXITS = 50
_BYTES_OF_RESULTS = 1 << 26
# Layouts that are kept for the weights of a network: one for each choice of what spikes weigh.
_LAYOUTS = 4


class Settings(NamedTuple):
    """The settings of a run for the kernels, as integers.

    `uncounted` are the steps before a delayed readout begins.
    """

    first_step: int
    steps: int
    refractory_steps: int
    reset: int
    uncounted: int
    stop: int
    stop_spikes: int
    stop_every: int


class Inputs(NamedTuple):
    """What drives the network: draws, or numbers, and biases.

    An input spikes if its draw of 16 bits is below `wanted`. One of the first two is empty.

    =======  ================  =====================================================================
    field    shape             meaning
    =======  ================  =====================================================================
    wanted   [B, inputs or 0]  65536 times the probability
    numbers  [B, inputs or 0]  what is sent in every step; in fixed point a multiple of 2^-16
    keys     [B, 2]            the words of each sample's key
    steady   [P]               what neurons receive in every step: their biases at this rate
    =======  ================  =====================================================================
    """

    wanted: np.ndarray
    numbers: np.ndarray
    keys: np.ndarray
    steady: np.ndarray


class Arrays(NamedTuple):
    """The state of a batch for the kernels; P neurons, padded and in the order of the layout.

    ============  ============  ==================================================
    field         shape         meaning
    ============  ============  ==================================================
    potentials    [B, P]        membrane potentials
    counts        [B, P]        spikes of each neuron
    free_from     [B, P or 0]   step from which a refractory neuron receives again
    received      [B, classes]  what the outputs have received, and started with
    input_counts  [B, inputs]   spikes of each input
    first_class   [B]           output neuron that spiked first, or -1
    first_step    [B]           steps until then
    exit_step     [B]           steps until the stop rule, or 0
    ============  ============  ==================================================
    """

    potentials: Any
    counts: Any
    free_from: Any
    received: Any
    input_counts: Any
    first_class: Any
    first_step: Any
    exit_step: Any


class Results(NamedTuple):
    """What the kernels write down of every step: the fields of `readout.Output`, and what it costs.

    ===========  ================  ==================================================
    field        shape             meaning
    ===========  ================  ==================================================
    counts       [T, B, classes]   spikes of each output neuron so far
    potentials   [T, B, classes]   their potentials
    received     [T, B, classes]   what they have received, and started with
    first_class  [T, B]            output neuron that spiked first, or -1
    spikes       [T, B, 1 + L]     spikes of the input and of each layer
    operations   [T, B]            synaptic operations
    ===========  ================  ==================================================
    """

    counts: np.ndarray
    potentials: np.ndarray
    received: np.ndarray
    first_class: np.ndarray
    spikes: np.ndarray
    operations: np.ndarray


class Segment(NamedTuple):
    """Some steps of a run: what happened in each, class and scores after each `[T, B, ...]`."""

    results: Results
    predictions: np.ndarray
    scores: np.ndarray


def simulate_events(run: Run, advance: Callable[[int], Any]) -> Trajectory:
    """Simulate a run that the engine supports.

    Args:
        run: the run.
        advance: called with the number of sample-steps that were done.

    Returns:
        The trajectory, without records.
    """
    layout = layout_of(run.network)
    assert isinstance(layout, Layout)
    arrays = _start(run, layout)
    parts: list[Any] = []
    scores, spikes, operations = [], [], []
    for segment in _steps(run, layout, arrays, advance):
        parts.append(segment.predictions)
        scores.append(segment.scores)
        if run.per_step:
            spikes.append(segment.results.spikes)
            operations.append(segment.results.operations)
    left = run.steps - sum(map(len, parts))
    if left:  # a stop rule has ended all samples
        parts.append(np.full((left, *parts[0].shape[1:]), -1, parts[0].dtype))
        scores.append(np.zeros((left, *scores[0].shape[1:]), scores[0].dtype))
        advance(left * len(run.images))
    predictions, said = (
        cast(Array, part[0] if len(part) == 1 else np.concatenate(part)) for part in (parts, scores)
    )
    found = Trajectory(_state(run, layout, arrays), predictions, scores=said)
    if not run.per_step:
        return found
    return found._replace(
        spikes=cast(Array, np.concatenate(spikes)),
        operations=cast(Array, np.concatenate(operations)),
    )


def layout_of(network: Executable) -> Layout | str:
    """The arrays of a network, or why the engine cannot simulate it.

    Points of a sweep whose spikes weigh the same share all but the thresholds.
    """
    return cast("Layout | str", cached(network, "layout", _layout_of))


def _layout_of(network: Executable) -> Layout | str:
    kept: dict[str, Layout | str] = cached(network.network, "layouts", lambda _: {})
    key = digest(*(np.asarray(weight) for weight in jax.tree.leaves(network.amplitudes)))
    if key not in kept:
        if len(kept) == _LAYOUTS:
            del kept[next(iter(kept))]
        kept[key] = _laid_out(network)
    shared = kept[key]
    return shared if isinstance(shared, str) else with_thresholds(shared, network)


def _laid_out(network: Executable) -> Layout | str:
    try:
        return lay_out(network)
    except UnsupportedError as reason:
        return str(reason)


def _steps(
    run: Run, layout: Layout, arrays: Arrays, advance: Callable[[int], Any]
) -> Iterator[Segment]:
    """Bring the arrays forward by the run's steps, in segments, so that no memory grows with them.

    It ends before the last step if a stop rule has ended all samples.
    """
    inputs, done = _inputs(run, layout), run.steps_done
    layout = layout._replace(tables=_fitting_kinds(run, layout, arrays))
    for steps in segments(run.steps, _fitting_steps(run)):
        results = _results(run, steps)
        _run_kernels(layout, _settings(run, done, steps), inputs, arrays, results, advance)
        yield Segment(results, *_read(run, results))
        done += steps
        if run.stop is not None and np.all(arrays.exit_step > 0):
            return


def _fitting_steps(run: Run) -> int:
    """How many steps to write down at a time."""
    fitting = _BYTES_OF_RESULTS // (bytes_of_step(run.network.network) * len(run.images))
    return max(1, min(fitting, _STEPS_AT_ONCE if run.stop is None else _STEPS_BETWEEN_EXITS))


def _results(run: Run, steps: int) -> Results:
    """Room for what the kernels write down of some steps."""
    network, shape = run.network, (steps, len(run.images))
    exact = np.issubdtype(network.dtype, np.integer)
    outputs, layers = prod(network.network.shapes[-1]), len(network.network.layers)
    potential = np.float32 if exact else network.dtype
    return Results(
        np.zeros((*shape, outputs), canonicalize_dtype(float) if exact else network.dtype),
        np.zeros((*shape, outputs), potential),
        np.zeros((*shape, outputs), potential),
        np.full(shape, -1, np.int32),
        np.zeros((*shape, 1 + layers), np.int32),
        np.zeros(shape, np.int64),
    )


def _run_kernels(
    layout: Layout,
    settings: Settings,
    inputs: Inputs,
    arrays: Arrays,
    results: Results,
    advance: Callable[[int], Any],
) -> None:
    """Bring the arrays forward by some steps, on all cores, and write down the results."""
    from jaxsnn.engines.events.compilation import announced
    from jaxsnn.engines.events.kernels import simulate_images, working_memory

    unused = layout.memory.setdefault((inputs.wanted.shape[1], inputs.numbers.shape[1]), [])

    def work(images: np.ndarray) -> int:
        memory = _taken(unused) or working_memory(layout.tables, inputs)
        simulate_images(images, layout.tables, settings, inputs, arrays, results, *memory)
        unused.append(memory)
        return len(images)

    with announced(shown=None if advance is no_progress else True):
        for done in _on_all_cores(work, len(inputs.keys)):
            advance(done * settings.steps)


def _on_all_cores(work: Callable[[np.ndarray], int], batch: int) -> Iterator[int]:
    """Work on the images of a batch, a few at a time, and yield how many more are done."""
    at_once = min(_IMAGES_AT_ONCE, ceil(batch / (_PARTS_PER_CORE * _cores())))
    starts = range(0, batch, at_once)
    left = [np.arange(start, min(start + at_once, batch)) for start in reversed(starts)]
    done: list[int] = []

    def help_out() -> None:
        while (images := _taken(left)) is not None:
            done.append(work(images))

    # This thread works too: to wake another takes as long as some steps.
    helpers = [_threads().submit(help_out) for _ in range(min(_cores(), len(left)) - 1)]
    try:
        while (images := _taken(left)) is not None:
            done.append(work(images))
            yield sum(done.pop() for _ in range(len(done)))
    finally:
        left.clear()
        for helper in helpers:
            helper.result()
    yield sum(done)


def _taken(things: list[Any]) -> Any:
    """The last of some things, taken away from them, or None; other threads take of them too."""
    with suppress(IndexError):
        return things.pop()
    return None


@lru_cache
def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), "jaxsnn-events")


# -- Into the kernels ------------------------------------------------------------------------------


def _settings(run: Run, first_step: int, steps: int) -> Settings:
    stop = run.stop
    found = kinds.NO_STOP, 0, 0
    if stop is stopping.first_spike:
        found = kinds.FIRST_SPIKE, 0, 0
    elif isinstance(stop, stopping.Margin):
        found = kinds.MARGIN, np.asarray(stop.spikes).item(), np.asarray(stop.every).item()
    reset = RESETS[run.behaviour.reset]
    uncounted = readout.start_of(run.behaviour.read)
    return Settings(first_step, steps, run.refractory_steps, reset, uncounted, *found)


def _inputs(run: Run, layout: Layout) -> Inputs:
    network, tables = run.network, layout.tables
    exact = np.issubdtype(network.dtype, np.integer)
    values = np.asarray(run.probabilities).reshape(len(run.images), -1)
    values = values.astype(network.network.dtype)
    scale = np.float32(1 << NUMBER_BITS)  # and of the draws, of 16 bits too
    wanted = np.zeros((len(values), 0), np.uint32)
    numbers = np.zeros((len(values), 0), np.int64 if exact else network.dtype)
    if run.behaviour.encode is encoding.constant:
        numbers = np.rint(values * scale).astype(np.int64) if exact else values
    else:  # to the nearest, as `encoding.poisson` does
        wanted = np.rint(values * scale).astype(np.uint32)
    steady = np.zeros(layout.first[-1], tables.currents.dtype)
    rate = np.asarray(run.max_rate * run.dt, network.network.dtype)
    for start, order, bias in zip(layout.first, layout.orders, layout.biases, strict=False):
        if bias is not None:
            received = rate * np.asarray(bias, network.network.dtype)
            steady[start + order] = np.rint(received) if exact else received
    return Inputs(wanted, numbers, np.asarray(run.keys), steady)


def _fitting_kinds(run: Run, layout: Layout, arrays: Arrays) -> Any:
    """The tables; a pooling neuron without input must never be at its threshold.

    It could be if it started there, or if a reset by subtraction left it there. Then all neurons of
    the layer have to be looked at in each step.
    """
    tables = layout.tables
    if not layout.most:
        return tables
    found = tables.layers.copy()
    for layer, most in layout.most.items():
        places = slice(*layout.first[layer : layer + 2])
        thresholds = tables.thresholds[places]
        left = run.behaviour.reset is neurons.reset_by_subtraction and most > thresholds.min()
        if left or np.any(arrays.potentials[:, places] >= thresholds):
            found["kind"][layer] = kinds.NEURONS
    return tables._replace(layers=found)


def _start(run: Run, layout: Layout) -> Arrays:
    """The state in which a run begins, in the order of the layout."""
    batch, network, dtype = len(run.images), run.network.network, run.network.dtype
    first = layout.first
    inputs = prod(network.input_shape)
    refractory = first[-1] if run.refractory_steps > 1 else 0
    arrays = Arrays(
        np.zeros((batch, first[-1]), dtype),
        np.zeros((batch, first[-1]), dtype),
        np.zeros((batch, refractory), np.int32),
        np.zeros((batch, layout.orders[-1].size), dtype),
        np.zeros((batch, inputs), dtype),
        np.full(batch, -1, np.int32),
        np.zeros(batch, np.int32),
        np.zeros(batch, np.int32),
    )
    state = run.state
    if state is None:
        for layer, potential in enumerate(run.network.initial_potentials or ()):
            _put(layout, layer, arrays.potentials, potential)
        arrays.received[:] = arrays.potentials[:, first[-2] : first[-2] + layout.orders[-1].size]
        return arrays
    for layer, of_layer in enumerate(state.neurons):
        _put(layout, layer, arrays.potentials, of_layer.potential)
        _put(layout, layer, arrays.counts, state.spike_counts[layer])
        if of_layer.refractory is not None:
            _put(layout, layer, arrays.free_from, state.step + np.asarray(of_layer.refractory))
    arrays.received[:, layout.orders[-1]] = received_so_far(run)
    arrays.input_counts[:] = np.asarray(state.input_spike_counts).reshape(batch, -1)
    arrays.first_class[:] = state.first_spike_class
    arrays.first_step[:] = state.first_spike_step
    return arrays


def _places(layout: Layout, layer: int) -> Any:
    """Where the neurons of a layer are among all; a slice where they are in their own order."""
    start, order = layout.first[layer], layout.orders[layer]
    return slice(start, start + order.size) if layout.in_order[layer] else start + order.reshape(-1)


def _put(layout: Layout, layer: int, array: np.ndarray, values: Any) -> None:
    """Write values of a layer's neurons, [B, ...] or those of all samples, into an array [B, P]."""
    values, shape = np.asarray(values), layout.orders[layer].shape
    if values.ndim <= len(shape):
        values = np.broadcast_to(values, shape)[None]
    array[:, _places(layout, layer)] = values.reshape(len(values), -1)


# -- And out again ---------------------------------------------------------------------------------


def _in_shape(values: np.ndarray, layout: Layout, layer: int) -> Any:
    """Values [B, P] of the neurons of a layer in their own shape; a view where that is possible."""
    return values[:, _places(layout, layer)].reshape(len(values), *layout.orders[layer].shape)


def _state(run: Run, layout: Layout, arrays: Arrays) -> State:
    step = np.asarray(run.steps_done + run.steps, np.int32)
    for array in arrays:  # what a run has counted is also part of its state
        array.flags.writeable = False
    layers = range(len(layout.orders))

    def waiting(layer: int) -> Any:
        if arrays.free_from.shape[1] == 0:
            return None
        return np.maximum(_in_shape(arrays.free_from, layout, layer) - step, 0)

    return State(
        step=cast(Array, step),
        neurons=[
            neurons.NeuronState(_in_shape(arrays.potentials, layout, layer), waiting(layer))
            for layer in layers
        ],
        input_spike_counts=cast(Array, arrays.input_counts.reshape(np.shape(run.images))),
        spike_counts=[_in_shape(arrays.counts, layout, layer) for layer in layers],
        received=cast(Array, arrays.received[:, layout.orders[-1]]),
        first_spike_class=arrays.first_class,
        first_spike_step=arrays.first_step,
        exit_step=arrays.exit_step,
        samples=run.samples,
        dt=cast(Array, np.float32(run.dt)),
        refractory_steps=cast(Array, np.asarray(run.refractory_steps, np.int32)),
        arithmetic=arithmetic_of(run.network),
        origin=run.origin,
    )


def _read(run: Run, results: Results) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and scores after every step [T, B, ...]."""
    network, (counts, potentials, received, first_class, *_) = run.network, results
    seen = readout.Output(
        cast(Array, counts),
        cast(Array, potentials),
        cached(network, "output threshold", _threshold_of_outputs),
        cast(Array, first_class),
        network.network.layers[-1].spiking,
        cast(Array, received),
    )
    return readout.read_steps(run.behaviour.read, seen), np.asarray(seen.scores)


def _threshold_of_outputs(network: Executable) -> np.ndarray:
    """The thresholds of the outputs, as readouts see them."""
    none: Any = np.zeros((1, 1, *network.network.shapes[-1]), network.dtype)  # [T, B, classes]
    threshold, step_size = network.thresholds[-1], network.step_sizes[-1]
    seen = output_seen(none, none, none, threshold, step_size, none[..., 0])
    return np.asarray(seen.threshold)
