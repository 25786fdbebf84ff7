"""The simulation of a spiking network on a batch of images, and what comes out of it.

Two engines do the work: the compiled scan (`scan`), and an event-driven one for CPUs (`events`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from math import ceil, prod
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxsnn import encoding, events, metrics, neurons, readout, stopping
from jaxsnn.balancing import SpikingNetwork, activation_scales
from jaxsnn.checks import (
    check_fixed_point,
    check_fused,
    check_network,
    check_rules,
    check_state,
    checked_samples,
    checked_sizes,
    checked_times,
    start_potentials,
    without_explicit_axes,
)
from jaxsnn.draws import sample_keys
from jaxsnn.events import Engine
from jaxsnn.fixed_point import FixedPoint, FixedPointNetwork
from jaxsnn.network import AnyArray, Network, is_known, remembered
from jaxsnn.progress import progress_bar
from jaxsnn.scan import scan_steps
from jaxsnn.state import (
    Job,
    Origin,
    Rules,
    State,
    Step,
    origin_of,
    parts_of_time,
    spoiled_if_invalid,
)
from jaxsnn.synapses import AnyNetwork, Units, chosen_units
from jaxsnn.typed import Count, Images, Key, Numbers, Real, Scalar, typed
from jaxsnn.warn import warn

# Potentials, counters and spikes of one piece of the batch; small pieces stay in a CPU's caches.
_BYTES_PER_PIECE = {"cpu": 5 << 22}
_BYTES_PER_PIECE_OF_ACCELERATORS = 1 << 30
# Steps of one compiled scan, at most: what a progress bar waits for.
_STEPS_PER_SCAN = 100
# Steps between which decided samples leave the batch.
_STEPS_BETWEEN_EXITS = 5
# On a CPU a layer goes through several steps at a time: until what it computes is as much as the
# weights that are read for it, and where neurons are too few to keep the cores busy.
_NEURONS_AT_ONCE = 1 << 19
_LONGEST_CHUNK = 100
_CHUNK_OF_ACCELERATORS = 8  # by the cost model of the TPU's compiler, not by measurement
_SILENT = (
    "no output neuron has spiked, so that all samples are undecided and count as wrong. In a deep "
    "network reset=reset_by_subtraction with initial_potential=[t / 2 for t in snn.thresholds], "
    "scale factors by percentile_scales, lower thresholds or a longer duration help."
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Simulation:
    """The result of `simulate`, for T steps and B samples.

    Attributes:
        predictions: the class after every step `[T, B]`, -1 while undecided.
        first_spike_prediction: class of the first output spike `[B]`, -1 if there was none.
        first_spike_time: its time in seconds `[B]`, at the end of its step; nan if there was none.
        spike_counts: for each layer the number of spikes of each neuron `[B, ...]`.
        input_spike_counts: for each input the number of steps in which it was not zero `[B, ...]`.
        synaptic_operations: effective synaptic operations of each sample `[B]`.
        times: time in seconds at the end of every step `[T]`.
        exit_time: for each sample the simulated time in seconds `[B]`: when the stop rule ended it,
            or the end of the run. Predictions and counts stay as they were then.
        records: what the `record` function returned, with leaves `[T, B, ...]`, or None.
        state: hand it to `simulate` to resume where this run ended.
        scale_factors: for each layer the activation that one spike in every step stands for: λ
            divided by max_rate·dt, a number or an array of its neurons; see `activations`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), jnp.zeros((1, 2)))
        >>> snn = jaxsnn.balance_thresholds(network, 1.0)
        >>> run = jaxsnn.simulate(snn, jnp.array([[0.0, 1.0]]), key=0, duration=0.004)
        >>> run.predictions[:, 0].tolist()
        [-1, 1, 1, 1]
        >>> round(float(run.first_spike_time[0]), 6), run.first_spike_prediction.tolist()
        (0.002, [1])
    """

    predictions: AnyArray
    first_spike_prediction: AnyArray
    first_spike_time: AnyArray
    spike_counts: list[AnyArray]
    input_spike_counts: AnyArray
    synaptic_operations: AnyArray
    times: AnyArray
    exit_time: AnyArray
    records: PyTree
    state: State
    scale_factors: list[AnyArray]

    @typed
    def accuracy(self, labels: Numbers) -> Float[Array, " steps"]:
        """Fraction of the samples predicted correctly after every step; undecided ones are wrong.

        Args:
            labels: the true classes `[B]`.

        Warns:
            UserWarning: no sample is decided at the end, since no output neuron has spiked.
        """
        classes = self.spike_counts[-1].shape[-1]
        found = metrics.accuracy(self.predictions, labels, classes=classes)
        if is_known(found):
            self.__dict__["_accuracy"] = found  # for the short description
            if not np.asarray(found)[-1] and np.all(np.asarray(self.predictions[-1]) < 0):
                warn(_SILENT)
        return found

    def activations(self) -> list[Float[Array, "batch ..."]]:
        """The ReLU activations that the spikes stand for, for each layer `[B, ...]`.

            spike counts · scale factor / number of steps

        With the reset by subtraction they approach `snn.network.activations(images)`, as far as no
        activation exceeds its λ. A layer has activations of nan where the weights of its
        predecessors' spikes stand for no activation, as thresholds and amplitudes set by hand may.
        """
        steps = jnp.where(self.state.exit_step > 0, self.state.exit_step, self.state.step)
        return [
            counts / steps.reshape(-1, *[1] * (counts.ndim - 1)) * scale
            for counts, scale in zip(self.spike_counts, self.scale_factors, strict=True)
        ]

    def __repr__(self) -> str:
        steps, samples = self.predictions.shape[-2:]
        if not is_known(self.predictions):
            return f"Simulation({steps} steps, {samples} samples, traced)"
        decided = np.mean(np.asarray(self.predictions[-1]) >= 0)
        spikes = sum(np.asarray(counts, np.float64).sum() for counts in self.spike_counts)
        operations = np.asarray(self.synaptic_operations, np.float64).mean()
        parts = [f"{steps} steps", f"{samples} samples", f"{decided:.1%} decided"]
        if "_accuracy" in self.__dict__:
            parts.append(f"accuracy {float(self.__dict__['_accuracy'][-1]):.2%}")
        costs = [f"{spikes / samples:,.0f} spikes", f"{operations:,.0f} operations per sample"]
        return f"Simulation({', '.join([*parts, *costs])})"

    def mean_latency(self) -> Float[Array, ""]:
        """Mean time in seconds after which a sample was decided, by the stop rule of the run."""
        return jnp.asarray(self.exit_time).mean()

    @typed
    def first_spike_accuracy(self, labels: Numbers) -> Float[Array, ""]:
        """Fraction of the samples whose first output spike is of the correct class."""
        classes = self.spike_counts[-1].shape[-1]
        return metrics.accuracy(self.first_spike_prediction, labels, classes=classes)


@typed
def simulate(
    network: SpikingNetwork | FixedPointNetwork,
    images: Images,
    *,
    key: Key,
    duration: Real = 0.5,
    dt: Real = 1e-3,
    max_rate: Scalar = 1000.0,
    encode: encoding.Encoding = encoding.poisson,
    reset: neurons.Reset = neurons.reset_to_zero,
    spike: neurons.Spike = neurons.heaviside,
    refractory_period: Real = 0.0,
    initial_potential: Numbers = 0.0,
    read: readout.Readout = readout.spike_count,
    record: Callable[[Step], PyTree] | None = None,
    stop: stopping.Stop | None = None,
    arithmetic: FixedPoint | None = None,
    engine: Engine = "auto",
    state: State | None = None,
    samples: Numbers | None = None,
    batch_size: Count | None = None,
    chunk: Count | None = None,
    progress: bool | None = None,
) -> Simulation:
    """Simulate a spiking network on a batch of images.

    In each step the input spikes are drawn, and then layer after layer integrates the weighted
    spikes of the layer before, of the same step, and fires (`jaxsnn.integrate_and_fire`). The
    defaults are those of Diehl et al. 2015, in float32.

    Memory does not grow with the duration, but for the predictions and what `record` keeps. The
    result can be differentiated by weights, thresholds, amplitudes and initial potentials.

    Args:
        network: the spiking network; `quantize` makes one of integers.
        images: images `[B, ...]` with pixels in [0, 1].
        key: a JAX key or an integer seed from 0 to 2**32 - 1. The spikes of a sample depend on
            (key, sample, step) alone, not on its place in a batch.
        duration: simulated time in seconds, a multiple of dt: 0.02, not 20, is 20 ms.
        dt: duration of a step in seconds.
        max_rate: rate in hertz of a pixel of value 1; at most 1/dt. Where JAX traces it, or
            thresholds or amplitudes, its range cannot be checked: out of range, all counts are nan
            (in fixed point: there is no input), and all samples are undecided.
        encode: how pixels drive the first layer: `poisson`, `constant` or a function of yours.
        reset: `reset_to_zero`, `reset_by_subtraction` or a function of yours.
        spike: the spike function; `step_function(surrogate)` makes one with another gradient.
        refractory_period: in seconds; two spikes of a neuron are at least so far apart.
        initial_potential: membrane potential at the start, in the units of the thresholds: one
            number, or one for each layer, or an array for each that broadcasts to its neurons.
            Deep networks spike soonest with half the thresholds and the reset by subtraction.
        read: how a class is read from the output layer: `readout.spike_count`,
            `readout.first_spike`, `readout.membrane_potential` or a function of yours.
        record: function of a `Step` whose value is kept for every step, for example
            `lambda step: step.spikes[0]`. Its leaves have the samples first. It is part of the
            compiled program: define it once, since every new function compiles a new program (the
            latest 16 are kept).
        stop: when a sample is decided: `stopping.first_spike`, `stopping.margin(spikes)`,
            `stopping.margin_over_time(spikes, every)` or a function of yours. Decided samples
            leave the batch: their predictions and counts stay as they are, and no more work is
            done for them. By default all samples run to the end.
        arithmetic: `FixedPoint(bits)` rounds the network to integers, whose spikes are bit for bit
            the same everywhere; by default that of the network.
        engine: "scan" is the compiled loop for all devices and both arithmetics. "events" runs
            fixed-point networks on a CPU and adds the weights of those neurons alone that spike;
            it needs Numba (`pip install "jaxsnn-conversion[fast]"`). "auto" takes the events where
            they can serve. "pallas" is the scan with the neurons' update in one kernel for TPUs,
            for runs without a refractory period, records and gradients; elsewhere it is
            interpreted, slowly. It has not met a TPU yet.
        state: the state to resume from: the `state` of an earlier run of the same network on the
            same images, with the same key, rate, encoding, reset, dt and refractory period.
            `state.detached()` may resume with others, except for the last two.
        samples: the number of each sample for the random draws `[B]`, from 0 to 2**31 - 1; by
            default 0, 1, …, B-1, or those of the state. Give it when you simulate a part of a set
            and want the spikes of the whole.
        batch_size: how many samples the scan computes at a time; by default as many as fit the
            caches of a CPU, or the memory of another device. A run in several pieces returns NumPy
            arrays, which lie in the memory of the host. (The events compute a sample at a time, and
            their counts and state are NumPy arrays too.)
        chunk: how many steps a layer goes through before the next one begins, in the scan; by
            default more than one where neurons are few beside the weights, which are then read less
            often.
        progress: whether to show a bar; by default on a terminal or in a notebook, for runs of
            more than a second.

    Returns:
        The simulation.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: a bad value, named with its remedy, before anything is computed.

    Warns:
        UserWarning: more than 10,000 steps; is the duration in seconds?

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> weights = jnp.array([[1.0, 0.25], [0.0, 0.5]])
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ weights), jnp.zeros((1, 2)))
        >>> snn = jaxsnn.balance_thresholds(network, 1.0)
        >>> run = jaxsnn.simulate(snn, jnp.ones((1, 2)), key=jax.random.key(0), duration=0.004)
        >>> run.spike_counts[0].tolist()
        [[4.0, 2.0]]
        >>> run.predictions[:, 0].tolist(), run.accuracy([0]).tolist()
        ([0, 0, 0, 0], [1.0, 1.0, 1.0, 1.0])
    """
    if arithmetic is not None:
        network = arithmetic(cast(SpikingNetwork, network))
    check_network(network)
    images = without_explicit_axes(network.network.check_pixels(images))
    steps, refractory_steps = checked_times(duration, dt, max_rate, refractory_period)
    dt = float(dt)
    batch_size, chunk = checked_sizes(batch_size=batch_size, chunk=chunk)
    rules = Rules(encode, reset, spike, read, record, fused=engine == "pallas")
    check_rules(rules, stop, network.network)
    if state is None:
        numbers = checked_samples(samples, len(images))
    elif samples is not None or jax.tree.leaves(initial_potential) != [0.0]:
        raise ValueError("samples and initial_potential belong to the state; leave them out.")
    else:
        numbers = state.samples
    keys = sample_keys(key, numbers)
    origin = origin_of(network, images, keys, cast(Array, max_rate), rules)
    if state is not None:
        check_state(network, state, origin, len(images), dt, refractory_steps)
        state = replace(state, origin=origin)
    job = Job(
        network,
        images,
        keys,
        numbers,
        cast(Array, max_rate),
        dt,
        steps,
        refractory_steps,
        start_potentials(network, initial_potential),
        state,
        rules,
        stop,
        origin,
    )
    if isinstance(network, FixedPointNetwork):
        check_fixed_point(job)
    if rules.fused:
        check_fused(job)
    given = network, images, job.keys, max_rate, job.potentials, state, stop
    traced = not all(map(is_known, jax.tree.leaves(given)))
    bar = progress_bar(
        False if traced else progress,
        desc="simulating",
        total=len(images) * steps,
        unit="image-step",
        unit_scale=True,
    )
    with bar:
        if events.serve(engine, network, rules, stop, traced=traced):
            return simulation(job, *events.run(job, bar.update))
        return _simulate_scan(job, bar, batch_size, chunk, traced)


# -- The scan --------------------------------------------------------------------------------------


def _simulate_scan(
    job: Job, bar: Any, batch_size: int | None, chunk: int | None, traced: bool
) -> Simulation:
    """All samples, in pieces of the batch that fit into memory, in the compiled scan."""
    count = len(job.images)
    if batch_size is None:
        batch_size = count if traced else _fitting_batch(job.network)
    pieces = _pieces(count, batch_size)
    if chunk is None:
        chunk = _fitting_chunk(job, len(pieces[0]))
    run = partial(_run_to_exits if job.stop and not traced else _run_to_the_end, bar=bar)
    units = chosen_units(job.network)
    runs = []
    for piece in pieces:
        whole = len(pieces) == 1
        part = job if whole else _part(job, piece)
        state, predictions, records = run(part, units=units, chunk=chunk)
        if job.stop is not None and records is not None:
            records = _silent_after_exits(records, state, job.steps)
        found = simulation(job, state, predictions, records)
        # Finished pieces go to the host, so that a device holds no more than one.
        runs.append(found if whole else jax.device_get(found))
    return runs[0] if len(runs) == 1 else _join(runs, count)


def _run_to_the_end(job: Job, *, bar: Any, units: Units, chunk: int) -> tuple[State, Array, PyTree]:
    """All steps of one piece of the batch: the last state, predictions and records."""
    state, outputs, scan = _start(job), [], _scanner(job, units, chunk)
    for steps in parts_of_time(job.steps, _STEPS_PER_SCAN):
        state, output = scan(state, steps)
        outputs.append(output)
        if not bar.disable:
            jax.block_until_ready(state)
            bar.update(min(steps * len(job.images), bar.total - bar.n))  # the last is filled up
    return state, *_concatenate(outputs, axis=0)


def _scanner(
    job: Job, units: Units, chunk: int
) -> Callable[[State, int], tuple[State, tuple[Array, PyTree]]]:
    """A function from a state and a number of steps to what the compiled scan makes of them."""
    probabilities, stop = job.probabilities, stopping.as_argument(job.stop)

    def scan(state: State, steps: int) -> tuple[State, tuple[Array, PyTree]]:
        return scan_steps(
            job.network,
            probabilities,
            job.keys,
            state,
            stop,
            steps=steps,
            chunk=min(chunk, steps),
            rules=job.rules,
            units=units,
        )

    return scan


def _silent_after_exits(records: PyTree, state: State, steps: int) -> PyTree:
    """Records [T, B, ...] with nothing of a sample after the step that decided it."""
    done = state.step - steps + jnp.arange(steps)
    after = (done[:, None] >= state.exit_step) & (state.exit_step > 0)

    def silenced(kept: AnyArray) -> AnyArray:
        if isinstance(kept, np.ndarray):
            kept[np.asarray(after)] = 0
            return kept
        there = after.reshape(*after.shape, *[1] * (kept.ndim - 2))
        return jnp.where(there, jnp.zeros((), kept.dtype), kept)

    return jax.tree.map(silenced, records)


def _run_to_exits(
    job: Job, *, bar: Any, units: Units, chunk: int
) -> tuple[State, AnyArray, PyTree]:
    """As `_run_to_the_end`; samples that a stop rule has ended leave the batch.

    The batch is halved as soon as half of it is decided, so that few programs are compiled.
    """
    state, scan = _start(job), _scanner(job, units, chunk)
    running, part = np.arange(len(job.images)), job
    whole_state, predictions, records = state, np.empty(0), None
    done = 0
    for steps in parts_of_time(job.steps, _STEPS_BETWEEN_EXITS):
        state, (predicted, recorded) = scan(state, steps)
        if done == 0:
            whole_state = jax.tree.map(lambda leaf: np.array(leaf), state)
            predictions = np.full((job.steps, len(running)), -1, np.int32)
            records = jax.tree.map(
                lambda leaf: np.zeros((job.steps, *leaf.shape[1:]), leaf.dtype), recorded
            )
        now = slice(done, done + steps)
        predictions[now, running] = predicted
        jax.tree.map(_put_at(now, running), records, recorded)
        whole_state = jax.tree.map(_put(running), whole_state, state)
        done += steps
        going = np.flatnonzero(np.asarray(state.exit_step) == 0)
        bar.update(min(steps * len(running), bar.total - bar.n))
        if len(going) == 0:
            break
        if len(going) <= len(running) // 2:
            size = len(running) // 2
            while size // 2 >= len(going) and size > 1:
                size //= 2
            kept = np.resize(going, size)  # filled up with some of them again
            running, state, part = running[kept], _take(state, kept), _part(part, kept)
            scan = _scanner(part, units, chunk)
    bar.update(bar.total - bar.n)
    step = np.asarray(whole_state.step) - done + job.steps
    return replace(whole_state, step=step), cast(Array, predictions), records


def _put(places: np.ndarray) -> Callable[[np.ndarray, Array], np.ndarray]:
    """A function that writes the values of some samples into those of all."""

    def write(whole: np.ndarray, part: Array) -> np.ndarray:
        if whole.ndim == 0:
            return np.asarray(part)
        whole[places] = part
        return whole

    return write


def _put_at(steps: slice, places: np.ndarray) -> Callable[[np.ndarray, Array], None]:
    """As `_put`, at some steps of a record."""

    def write(whole: np.ndarray, part: Array) -> None:
        whole[steps, places] = part

    return write


def _start(job: Job) -> State:
    """The state in which a part of the batch begins."""
    if job.state is not None:
        return spoiled_if_invalid(job, job.state)
    state = _initial_state(
        job.network.network,
        job.samples,
        job.potentials,
        job.dt,
        job.refractory_steps,
        job.grid,
        job.origin,
        counting=job.refractory_steps > 1,
    )
    return spoiled_if_invalid(job, state)


@partial(jax.jit, static_argnames="counting")
def _initial_state(
    network: Network,
    samples: AnyArray,
    potentials: list[Array],
    dt: ArrayLike,
    refractory_steps: ArrayLike,
    grid: ArrayLike,
    origin: Origin | None,
    *,
    counting: bool,
) -> State:
    batch, dtype = len(samples), potentials[0].dtype
    return State(
        step=jnp.zeros((), jnp.int32),
        neurons=[
            neurons.initial_state((batch, *shape), potential, counting)
            for potential, shape in zip(potentials, network.shapes, strict=True)
        ],
        input_spike_counts=jnp.zeros((batch, *network.input_shape), dtype),
        spike_counts=[jnp.zeros((batch, *shape), dtype) for shape in network.shapes],
        first_spike_class=jnp.full(batch, -1, jnp.int32),
        first_spike_step=jnp.zeros(batch, jnp.int32),
        exit_step=jnp.zeros(batch, jnp.int32),
        samples=jnp.asarray(samples),
        dt=jnp.asarray(dt, jnp.float32),
        refractory_steps=jnp.asarray(refractory_steps, jnp.int32),
        grid=jnp.asarray(grid, jnp.uint32),
        origin=origin,
    )


# -- The result ------------------------------------------------------------------------------------


def simulation(job: Job, state: State, predictions: AnyArray, records: PyTree) -> Simulation:
    """The result of a run, from the state at its end and what was read at every step."""
    found = _found(
        metrics.fan_out(job.network.network),
        [state.input_spike_counts, *state.spike_counts[:-1]],
        state.first_spike_class,
        state.first_spike_step,
        state.exit_step,
        state.step,
        predictions,
        job.dt,
        stops=job.stop is not None,
    )
    return Simulation(
        **found,
        first_spike_prediction=state.first_spike_class,
        spike_counts=state.spike_counts,
        input_spike_counts=state.input_spike_counts,
        records=records,
        state=state,
        scale_factors=_scale_factors(job),
    )


def _scale_factors(job: Job) -> list[AnyArray]:
    """For each layer the activation that one spike in every step stands for."""
    scales = remembered(job.network, "_activation_scales", _activation_scales)
    probability = job.max_rate * job.dt
    if is_known(probability) and probability == 0:
        return [np.full_like(scale, np.nan) for scale in scales]
    return [scale / probability for scale in scales]


def _activation_scales(network: AnyNetwork) -> list[AnyArray]:
    if isinstance(network, FixedPointNetwork):
        known = all(map(is_known, network.scale_factors))
        return cast(Any, [np.asarray(s) if known else s for s in network.scale_factors])
    return activation_scales(network.thresholds, network.amplitudes)


@partial(jax.jit, static_argnames="stops")
def _found(
    synapses: list[Array],
    sent: list[Array],
    first_spike_class: Array,
    first_spike_step: Array,
    exit_step: Array,
    step: Array,
    predictions: Array,
    dt: ArrayLike,
    *,
    stops: bool,
) -> dict[str, Any]:
    steps = len(predictions)
    first = step - steps
    ended = jnp.where(exit_step > 0, exit_step, step)
    if stops:  # the last word of a sample that ended stands to the end
        seen = jnp.minimum(jnp.arange(steps)[:, None], jnp.maximum(ended - first - 1, 0))
        predictions = jnp.take_along_axis(predictions, seen, 0)
    return {
        "predictions": predictions,
        "first_spike_time": jnp.where(first_spike_class >= 0, first_spike_step * dt, jnp.nan),
        "synaptic_operations": metrics.operations(synapses, sent),
        "times": (first + 1 + jnp.arange(steps)) * dt,
        "exit_time": ended * dt,
    }


# -- Pieces ----------------------------------------------------------------------------------------


def _fitting_batch(network: AnyNetwork) -> int:
    """How many samples a device takes at a time."""
    numbers = sum(map(prod, (network.network.input_shape, *network.network.shapes)))
    budget = _BYTES_PER_PIECE.get(jax.default_backend(), _BYTES_PER_PIECE_OF_ACCELERATORS)
    return max(1, budget // (4 * 3 * numbers))


def _fitting_chunk(job: Job, batch: int) -> int:
    """How many steps a layer goes through before the next one begins."""
    images = job.images
    if isinstance(images, jax.Array) and is_known(images) and len(images.sharding.device_set) > 1:
        return 1  # several steps and samples as one axis would be gathered on every device
    if jax.default_backend() != "cpu":
        return min(_CHUNK_OF_ACCELERATORS, job.steps)
    network = job.network.network
    neurons = batch * sum(map(prod, network.shapes))
    weights = sum(np.size(leaf) for leaf in jax.tree.leaves(network))
    fitting = max(_NEURONS_AT_ONCE, weights) // neurons
    return max(1, min(_LONGEST_CHUNK, fitting, job.steps))


def _pieces(samples: int, batch_size: int) -> list[np.ndarray]:
    """Indices of the samples in pieces of one size, so that one program serves all.

    The last piece is filled up by repeating the last sample.
    """
    count = ceil(samples / batch_size)
    size = ceil(samples / count)
    indices = np.minimum(np.arange(count * size), samples - 1)
    return list(indices.reshape(count, size))


def _part(job: Job, samples: np.ndarray) -> Job:
    """The job of some of the samples."""
    return job._replace(
        images=job.images[samples],
        keys=job.keys[samples],
        samples=job.samples[samples],
        state=None if job.state is None else _take(job.state, samples),
        origin=_take(job.origin, samples),
    )


def _take(tree: Any, samples: np.ndarray) -> Any:
    """The state or origin of some samples; scalars belong to all."""
    return jax.tree.map(lambda leaf: leaf[samples] if leaf.ndim else leaf, tree)


def _concatenate(trees: Sequence[PyTree], axis: int) -> PyTree:
    """The leaves of trees put together; scalars are the same in all."""

    def together(*leaves: Any) -> Any:
        if len(leaves) == 1 or leaves[0].ndim == 0:
            return leaves[0]
        arrays = np if isinstance(leaves[0], np.ndarray) else jnp
        return arrays.concatenate(leaves, axis)

    return jax.tree.map(together, *trees)


def _join(runs: Sequence[Simulation], size: int) -> Simulation:
    """The runs of all pieces as one, without the repeated samples at the end."""

    def together(name: str) -> PyTree:
        values = [getattr(run, name) for run in runs]
        if name in ("times", "scale_factors"):
            return values[0]
        if name in ("predictions", "records"):
            return jax.tree.map(lambda leaf: leaf[:, :size], _concatenate(values, axis=1))
        joined = _concatenate(values, axis=0)
        return jax.tree.map(lambda leaf: leaf[:size] if leaf.ndim else leaf, joined)

    return Simulation(**{field.name: together(field.name) for field in fields(Simulation)})
