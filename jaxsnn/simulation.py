"""The simulation of a spiking network on a batch of images, and its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from math import ceil
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import canonicalize_dtype
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxsnn import encoding, metrics, neurons, readout, stopping
from jaxsnn.conversion.balancing import SpikingNetwork
from jaxsnn.conversion.fixed_point import FixedPoint, FixedPointNetwork
from jaxsnn.engines import Engine, EngineChoice, Scan, choose
from jaxsnn.engines.base import (
    Behaviour,
    Run,
    State,
    Step,
    Trajectory,
    no_progress,
    origin_of,
)
from jaxsnn.engines.checks import (
    check_behaviour,
    check_state,
    checked_images,
    checked_samples,
    checked_times,
    without_explicit_axes,
)
from jaxsnn.network import Network
from jaxsnn.support.arrays import (
    AnyArray,
    compiled,
    for_batches,
    is_known,
    is_on_host,
    nearby,
    numbers_of,
    static_field,
)
from jaxsnn.support.functions import by_content
from jaxsnn.support.progress import is_shown, progress_bar
from jaxsnn.support.random import sample_keys
from jaxsnn.support.typed import Count, Images, Key, Numbers, Real, Scalar, typed
from jaxsnn.support.warn import warn

_DURATION = 0.5  # seconds
_SILENT = (
    "no output neuron has spiked, so that all samples are undecided and count as wrong. In a deep "
    "network balance_thresholds(..., initial_potential=0.5, reset=reset_by_subtraction), "
    "scale factors by percentile_scales, lower thresholds or a longer duration help."
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Simulation:
    """The result of `simulate`, for T steps and B samples.

    Attributes:
        predictions: the class after every step `[T, B]`, -1 while undecided.
        scores: the score of each class after every step `[T, B, classes]`: the potential of the
            output, had it never been reset, or of a delayed readout what it received since that
            began; None from an engine that does not give them. Divided by the steps and by
            max_rate·dt, those of a last layer without a ReLU approach its outputs, the logits.
        first_spike_prediction: class of the first output spike `[B]`, -1 if there was none.
        first_spike_time: its time in seconds `[B]`, at the end of its step; nan if there was none.
        spike_counts: for each layer the number of spikes of each neuron `[B, ...]`; divided by the
            duration they are the firing rates in hertz.
        input_spike_counts: for each input the number of steps in which it was not zero `[B, ...]`.
        synaptic_operations: effective synaptic operations of each sample `[B]`.
        times: time in seconds at the end of every step `[T]`.
        exit_time: for each sample the simulated time in seconds `[B]`: when the stop rule ended it,
            or the end of the run. Predictions and counts stay as they were then.
        records: what the `record` function returned, with leaves `[T, B, ...]`, or None.
        state: hand it to `simulate` to resume where this run ended.
        scale_factors: for each layer the activation that one spike in every step stands for: λ
            divided by max_rate·dt, a number or an array of its neurons; see `activations`.
        spiking: whether the outputs spike; those of a last layer without a ReLU accumulate.

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
    scores: AnyArray | None
    first_spike_prediction: AnyArray
    first_spike_time: AnyArray
    spike_counts: list[AnyArray]
    input_spike_counts: AnyArray
    synaptic_operations: AnyArray
    times: AnyArray
    exit_time: AnyArray
    records: Any
    state: State
    scale_factors: list[AnyArray]
    spiking: bool = static_field(default=True)

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
        """The activations that the spikes stand for, for each layer `[B, ...]`.

            spike counts · scale factor / number of steps

        of a last layer without a ReLU its potentials in the place of the counts.

        With the reset by subtraction they approach `snn.network.activations(images)`, as far as no
        activation exceeds its λ. A layer has activations of nan where the weights of its
        predecessors' spikes stand for no activation, as thresholds and amplitudes set by hand may.
        """
        sent = list(self.spike_counts)
        if not self.spiking:
            sent[-1] = self.state.neurons[-1].potential
        return _activations(sent, self.scale_factors, self.state.exit_step, self.state.step)

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
    duration: Real | None = None,
    steps: Count | None = None,
    dt: Real = 1e-3,
    max_rate: Scalar = 1000.0,
    encode: encoding.Encoding | None = None,
    reset: neurons.Reset | None = None,
    spike: neurons.Spike = neurons.heaviside,
    refractory_period: Real = 0.0,
    initial_potential: Numbers | None = None,
    read: readout.Readout | None = None,
    record: Callable[[Step], Any] | None = None,
    stop: stopping.Stop | None = None,
    arithmetic: FixedPoint | None = None,
    engine: EngineChoice = "auto",
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

    Memory does not grow with the duration, but for predictions, scores and what `record` keeps. The
    result can be differentiated by weights, thresholds, amplitudes and initial potentials.

    Args:
        network: the spiking network; `quantize` makes one of integers.
        images: images `[B, ...]` with pixels in [0, 1]; for `constant` any finite numbers.
        key: a JAX key or an integer seed from 0 to 2**32 - 1. The spikes of a sample depend on
            (key, sample, step) alone, not on its place in a batch.
        duration: simulated time in seconds, a multiple of dt: 0.02, not 20, is 20 ms; by default
            0.5.
        steps: the number of steps, duration / dt, in place of a duration.
        dt: duration of a step in seconds.
        max_rate: rate in hertz of a pixel of value 1; at most 1/dt. Where JAX traces it, or
            thresholds or amplitudes, its range cannot be checked: out of range, all counts are nan
            (in fixed point: there is no input), and all samples are undecided.
        encode: how pixels drive the first layer: `poisson`, `constant` or a function of yours; by
            default that of the network.
        reset: `reset_to_zero`, `reset_by_subtraction` or a function of yours; by default that of
            the network.
        spike: the spike function; `step_function(surrogate)` makes one with another gradient.
        refractory_period: in seconds; two spikes of a neuron are at least so far apart.
        initial_potential: membrane potential at the start, in the units of the thresholds: one
            number, or one for each layer, or an array for each that broadcasts to its neurons; by
            default that of the network. Deep networks spike soonest with
            `balance_thresholds(..., initial_potential=0.5, reset=reset_by_subtraction)`.
        read: how a class is read from the output layer: `readout.spike_count`,
            `readout.first_spike`, `readout.membrane_potential`, `readout.score`,
            `readout.delayed(steps)` or a function of yours; by default spike counts, or for a last
            layer without a ReLU the scores.
        record: the monitor: a function of a `Step` whose value is kept for every step, for example
            `lambda step: step.spikes[0]` or, for membrane potentials, `step.potentials[0]`. Its
            leaves have the samples first. It is part of the compiled program, of which the latest
            16 are kept; functions of the same code, which see the same numbers, strings and
            functions, share theirs.
        stop: when a sample is decided: `stopping.first_spike`, `stopping.margin(spikes)`,
            `stopping.margin_over_time(spikes, every)` or a function of yours. Decided samples
            leave the batch: their predictions and counts stay as they are, and no more work is
            done for them. By default all samples run to the end.
        arithmetic: `FixedPoint(bits)` rounds the network to integers, whose spikes are bit for bit
            the same everywhere; by default that of the network.
        engine: "scan" is the compiled loop for all devices, which can be differentiated. "events"
            runs on CPUs and adds the weights of those neurons alone that spike, in floating point
            in an order of its own; "auto" takes it where nothing is traced, and says so once where
            it does not support the run. An engine with options is an object, such as
            `jaxsnn.engines.Scan(batch_size=100)`. The events return NumPy arrays, as the scan does
            where it needs several batches.
        state: the state to resume from: the `state` of an earlier run of the same network on the
            same images, with the same key, rate, encoding, reset, dt and refractory period.
            `state.detached()` may resume with others, except for the last two.
        samples: the number of each sample for the random draws `[B]`, from 0 to 2**31 - 1; by
            default 0, 1, …, B-1, or those of the state. Give it when you simulate a part of a set
            and want the spikes of the whole.
        batch_size: deprecated: `engine=jaxsnn.engines.Scan(batch_size=...)`.
        chunk: deprecated: `engine=jaxsnn.engines.Scan(chunk=...)`.
        progress: whether to show a bar; by default on a terminal or in a notebook, for runs of
            more than a second.

    Returns:
        The simulation.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: a bad value, named with its remedy, before anything is computed.

    Warns:
        UserWarning: more than 10,000 steps; is the duration in seconds? Or constant currents are
            whole numbers up to 255; were the model's pixels?
        DeprecationWarning: the old form of an argument.

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
        >>> jaxsnn.simulate(snn, jnp.ones((1, 2)), key=0, steps=8).spike_counts[0].tolist()
        [[8.0, 4.0]]
    """
    if arithmetic is not None:
        network = arithmetic(cast(SpikingNetwork, network))
    network.check()
    encode = encode or network.encode
    images = without_explicit_axes(checked_images(network.network, nearby(images), encode))
    seconds = _duration(duration, steps, dt)
    count, refractory_steps = checked_times(
        seconds, dt, max_rate, refractory_period, in_seconds=steps is None
    )
    scan = _scan_options(batch_size, chunk)
    read = read or readout.default(network.network.layers[-1].spiking)
    behaviour = Behaviour(encode, reset or network.reset, spike, read, by_content(record))
    check_behaviour(behaviour, stop, network.network)
    zero = isinstance(initial_potential, int | float) and initial_potential == 0
    if state is None:
        numbers = checked_samples(samples, len(images))
    elif samples is not None or not (initial_potential is None or zero):
        raise ValueError("samples and initial_potential belong to the state; leave them out.")
    else:
        numbers = state.samples
    network = network.with_neurons(initial_potential, reset)
    keys = sample_keys(key, numbers)
    origin = origin_of(network, images, keys, max_rate, encode)
    run = Run(
        network,
        images,
        keys,
        numbers,
        max_rate,
        float(dt),
        count,
        refractory_steps,
        state,
        behaviour,
        stop,
        origin,
    )
    if state is not None:
        check_state(run)
        run = run._replace(state=replace(state, origin=origin))
    network.check_run(run.steps_done + count, encode, spike, images)
    return _simulated(run, choose(engine, run, scan=scan), progress)


def _duration(duration: Real | None, steps: Count | None, dt: Real) -> Real:
    """The duration in seconds, of which one form is given at most."""
    if steps is None:
        return _DURATION if duration is None else duration
    if duration is not None:
        raise ValueError(f"duration={duration} and steps={steps}: give one of them.")
    if steps < 1:
        raise ValueError(f"steps={steps}; there must be at least 1.")
    return steps * dt


def _scan_options(batch_size: Count | None, chunk: Count | None) -> Scan | None:
    """The options of the scan that are given in the old form."""
    given: dict[str, Any] = {"batch_size": batch_size, "chunk": chunk}
    options = {name: size for name, size in given.items() if size is not None}
    if not options:
        return None
    new = ", ".join(f"{name}={size}" for name, size in options.items())
    old = " and ".join(options)
    warn(f"{old} will be removed: use engine=jaxsnn.engines.Scan({new}).", DeprecationWarning)
    return Scan(**options)


def _simulated(run: Run, engine: Engine, progress: bool | None) -> Simulation:
    """All samples, with a bar if one is wanted."""
    if run.traced or not is_shown(progress):
        return _in_batches(run, engine, no_progress)
    total = len(run.images) * run.steps
    options = {"desc": "simulating", "total": total, "unit": "image-step", "unit_scale": True}
    with progress_bar(progress, **options) as bar:
        # Padding of the last batch is no progress.
        return _in_batches(run, engine, lambda done: bar.update(min(done, total - bar.n)))


def _in_batches(run: Run, engine: Engine, advance: Callable[[int], Any]) -> Simulation:
    """All samples, in as many batches as the engine needs."""
    count = len(run.images)
    at_once = count if run.traced else engine.samples_at_once(run)
    if at_once >= count:
        return simulation(run, engine.simulate(run, advance))
    parts = map(run.of_samples, split(count, at_once))
    # Finished batches go to the host, so that a device holds no more than one.
    found = [jax.device_get(simulation(part, engine.simulate(part, advance))) for part in parts]
    return _joined(found, count)


# -- The result ------------------------------------------------------------------------------------


def simulation(run: Run, trajectory: Trajectory) -> Simulation:
    """The result of a run."""
    state = trajectory.state
    found = _found(
        state.first_spike_class,
        state.first_spike_step,
        state.exit_step,
        state.step,
        trajectory.predictions,
        trajectory.scores,
        run.dt,
        stops=run.stop is not None,
    )
    return Simulation(
        **found,
        first_spike_prediction=state.first_spike_class,
        synaptic_operations=_operations(run.network.network, state),
        spike_counts=state.spike_counts,
        input_spike_counts=state.input_spike_counts,
        records=trajectory.records,
        state=state,
        scale_factors=_scale_factors(run),
        spiking=run.network.network.layers[-1].spiking,
    )


def _operations(network: Network, state: State) -> AnyArray:
    """Synaptic operations of each sample, of NumPy where it sees the counts without a transfer.

    There the sum is exact before it is rounded, and so the same whatever engine counted.
    """
    sent: list[Any] = [state.input_spike_counts, *state.spike_counts[:-1]]
    if all(map(is_on_host, sent)):
        sent = list(map(np.asarray, sent))
    return metrics.total_operations(metrics.fan_out(network), sent)


def _scale_factors(run: Run) -> list[AnyArray]:
    """For each layer the activation that one spike in every step stands for."""
    scales, probability = run.network.scale_factors, run.max_rate * run.dt
    if is_known(probability):  # without input no spike stands for anything
        probability = float(cast(float, probability)) or np.nan
    known: Any = (np.asarray(scale) if is_known(scale) else scale for scale in scales)
    return [scale / probability for scale in known]


@partial(compiled, static_argnames="stops")
def _found(
    first_spike_class: AnyArray,
    first_spike_step: AnyArray,
    exit_step: AnyArray,
    step: AnyArray,
    predictions: AnyArray,
    scores: AnyArray | None,
    dt: ArrayLike,
    *,
    stops: bool,
) -> dict[str, Any]:
    numbers, number = numbers_of(predictions), canonicalize_dtype(float)
    steps = len(predictions)
    first = step - steps
    ended = numbers.where(exit_step > 0, exit_step, step)
    if stops:  # the last word of a sample that ended stands to the end
        seen = numbers.minimum(
            numbers.arange(steps, dtype=ended.dtype)[:, None],
            numbers.maximum(ended - first - 1, 0)[None],
        )
        predictions = numbers.take_along_axis(predictions, seen, 0)
        scores = None if scores is None else numbers.take_along_axis(scores, seen[..., None], 0)
    return {
        "predictions": predictions,
        "scores": scores,
        "first_spike_time": numbers.where(
            first_spike_class >= 0, first_spike_step.astype(number) * dt, np.nan
        ),
        "times": (first + 1 + numbers.arange(steps, dtype=first.dtype)).astype(number) * dt,
        "exit_time": ended.astype(number) * dt,
    }


@jax.jit
def _activations(
    sent: list[Array], scale_factors: list[Array], exit_step: Array, step: Array
) -> list[Array]:
    steps, number = jnp.where(exit_step > 0, exit_step, step), jnp.result_type(float)
    return [
        jnp.asarray(counts, number)
        / steps.reshape(-1, *[1] * (counts.ndim - 1)).astype(number)
        * for_batches(scale, counts.shape[1:], number)
        for counts, scale in zip(sent, scale_factors, strict=True)
    ]


# -- Batches ---------------------------------------------------------------------------------------


def split(samples: int, batch_size: int) -> list[np.ndarray]:
    """Indices of the samples in batches of one size, so that one program computes all.

    The last batch is padded by repeating the last sample.
    """
    count = ceil(samples / batch_size)
    size = ceil(samples / count)
    indices = np.minimum(np.arange(count * size), samples - 1)
    return list(indices.reshape(count, size))


def _joined(runs: Sequence[Simulation], size: int) -> Simulation:
    """The runs of all batches as one, without the repeated samples at the end."""

    def field_of_all(name: str) -> Any:
        values = [getattr(run, name) for run in runs]
        if name in ("times", "scale_factors", "spiking"):
            return values[0]
        axis = 1 if name in ("predictions", "scores", "records") else 0
        kept = (slice(None),) * axis + (slice(size),)
        return jax.tree.map(
            lambda *leaves: np.concatenate(leaves, axis)[kept] if leaves[0].ndim else leaves[0],
            *values,
        )

    return Simulation(**{field.name: field_of_all(field.name) for field in fields(Simulation)})
