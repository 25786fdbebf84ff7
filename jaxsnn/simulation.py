"""The simulation: one scan of integrate-and-fire layers over time steps, for a batch of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from math import ceil, prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxsnn import encoding, metrics, neurons, readout
from jaxsnn.balancing import SpikingNetwork
from jaxsnn.network import AnyArray, expect, holds, is_known, per_layer
from jaxsnn.progress import progress_bar

# Potentials, counters and spikes of one piece of the batch; small pieces stay in a CPU's caches.
_BYTES_PER_PIECE = {"cpu": 1 << 26}
_BYTES_PER_PIECE_OF_ACCELERATORS = 1 << 30
# Steps of one compiled scan, at most: what a progress bar waits for.
_STEPS_PER_CHUNK = 100


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """All that a simulation carries from step to step, for B samples.

    ==================  =============  ========================================================
    field               shape          meaning
    ==================  =============  ========================================================
    step                []             number of steps done
    neurons             layers         membrane potentials and refractory counters `[B, ...]`
    input_spike_counts  [B, ...]       for each input the steps in which it was not zero
    spike_counts        layers         spikes of each neuron `[B, ...]`
    first_spike_class   [B]            output neuron that spiked first, -1 if none has
    first_spike_step    [B]            steps until then, 0 if none has spiked
    samples             [B]            numbers of the samples, for the random draws
    dt                  []             duration of a step in seconds
    refractory_steps    []             refractory period in steps
    ==================  =============  ========================================================
    """

    step: AnyArray
    neurons: list[neurons.NeuronState]
    input_spike_counts: AnyArray
    spike_counts: list[AnyArray]
    first_spike_class: AnyArray
    first_spike_step: AnyArray
    samples: AnyArray
    dt: AnyArray
    refractory_steps: AnyArray


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Step:
    """What a `record` function sees of one time step.

    ===========  ===========  ==================================================
    field        shape        meaning
    ===========  ===========  ==================================================
    inputs       [B, ...]     input of the first layer: spikes, or a current
    spikes       layers       spikes of each layer, 0 or 1 `[B, ...]`
    potentials   layers       membrane potentials after the reset `[B, ...]`
    prediction   [B]          class read out after this step, or -1
    ===========  ===========  ==================================================
    """

    inputs: AnyArray
    spikes: list[AnyArray]
    potentials: list[AnyArray]
    prediction: AnyArray


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
        records: what the `record` function returned, with leaves `[T, B, ...]`, or None.
        state: hand it to `simulate` to go on where this run ended.

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
    records: PyTree
    state: State

    def accuracy(self, labels: ArrayLike | Sequence) -> Float[Array, " steps"]:
        """Fraction of the samples predicted rightly after every step; undecided ones are wrong."""
        return metrics.accuracy(self.predictions, labels)

    def first_spike_accuracy(self, labels: ArrayLike | Sequence) -> Float[Array, ""]:
        """Fraction of the samples whose first output spike is of the right class."""
        return metrics.accuracy(self.first_spike_prediction, labels)


class _Rules(NamedTuple):
    """The functions that make up a simulation; they are part of the compiled program."""

    encode: encoding.Encoding
    reset: neurons.Reset
    spike: neurons.Spike
    read: readout.Readout
    record: Callable[[Step], PyTree] | None


def simulate(
    network: SpikingNetwork,
    images: ArrayLike,
    *,
    key: ArrayLike,
    duration: float = 0.5,
    dt: float = 1e-3,
    max_rate: ArrayLike = 1000.0,
    encode: encoding.Encoding = encoding.poisson,
    reset: neurons.Reset = neurons.reset_to_zero,
    spike: neurons.Spike = neurons.heaviside,
    refractory_period: float = 0.0,
    initial_potential: ArrayLike | Sequence[ArrayLike] = 0.0,
    read: readout.Readout = readout.spike_count,
    record: Callable[[Step], PyTree] | None = None,
    state: State | None = None,
    samples: ArrayLike | Sequence[int] | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Simulation:
    """Simulate a spiking network on a batch of images.

    In each step the input spikes are drawn, and then layer after layer integrates the weighted
    spikes of the layer before, of the same step, and fires (`jaxsnn.integrate_and_fire`). The
    defaults are those of Diehl et al. 2015.

    Memory does not grow with the duration, but for the predictions and what `record` keeps. The
    result can be differentiated by weights, thresholds, amplitudes and initial potentials.

    Args:
        network: the spiking network.
        images: images `[B, ...]` with pixels in [0, 1].
        key: a JAX key or an integer seed. The spikes of a sample depend on (key, sample, step)
            alone, not on its place in a batch.
        duration: simulated time in seconds, a multiple of dt.
        dt: duration of a step in seconds.
        max_rate: rate in hertz of a pixel of value 1; at most 1/dt.
        encode: how pixels drive the first layer: `poisson`, `constant` or a function of yours.
        reset: `reset_to_zero`, `reset_by_subtraction` or a function of yours.
        spike: the spike function; `step_function(surrogate)` makes one with another gradient.
        refractory_period: in seconds; two spikes of a neuron are at least so far apart.
        initial_potential: membrane potential at the start, in the units of the thresholds: one
            number, or one for each layer, or an array for each that broadcasts to its neurons.
        read: how a class is read from the output layer: `readout.spike_count`,
            `readout.first_spike`, `readout.membrane_potential` or a function of yours.
        record: function of a `Step` whose value is kept for every step, for example
            `lambda step: step.spikes[0]`. Its leaves have the samples first.
        state: where to go on: the `state` of an earlier run on the same images, with the same dt
            and refractory period.
        samples: the number of each sample for the random draws `[B]`; by default 0, 1, …, B-1, or
            those of the state. Give it when you simulate a part of a set and want the spikes of
            the whole.
        batch_size: how many samples are computed at a time; by default as many as memory allows.
            A run in several pieces returns NumPy arrays, which lie in the memory of the host.
        progress: whether to show a bar; by default on a terminal or in a notebook, for runs of
            more than a second.

    Returns:
        The simulation.

    Raises:
        ValueError: bad input, named with its remedy, before anything is computed.

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
    check_network(network)
    images = network.network.check_pixels(images)
    steps, refractory_steps = checked_times(duration, dt, max_rate, refractory_period)
    if state is None:
        samples = _checked_samples(samples, len(images))
    else:
        if samples is not None or jax.tree.leaves(initial_potential) != [0.0]:
            raise ValueError("samples and initial_potential belong to the state; leave them out.")
        _check_state(network, state, len(images), dt, refractory_steps)
        samples = state.samples
    potentials = per_layer(network.network, initial_potential, "initial_potential")
    rules = _Rules(encode, reset, spike, read, record)
    keys = sample_keys(key, samples)
    inputs = (network, images, keys, max_rate, potentials, state)
    traced = not all(map(is_known, jax.tree.leaves(inputs)))
    if batch_size is None:
        batch_size = len(images) if traced else _fitting_batch(network)
    pieces = _pieces(len(images), batch_size)
    bar = progress_bar(
        False if traced else progress,
        desc="simulating",
        total=len(images) * steps,
        unit="image-step",
        unit_scale=True,
    )
    runs = []
    with bar:
        for piece in pieces:
            drive = images[piece] * (max_rate * dt)
            now = (
                _initial_state(network, drive, samples[piece], dt, potentials, refractory_steps)
                if state is None
                else _take(state, piece)
            )
            outputs = []
            for chunk in _chunks(steps):
                now, output = _scan(network, drive, keys[piece], now, steps=chunk, rules=rules)
                outputs.append(output)
                if not bar.disable:
                    jax.block_until_ready(now)
                    bar.update(min(chunk * len(piece), bar.total - bar.n))  # the last is filled up
            predictions, records = _concatenate(outputs, axis=0)
            run = _result(network, now, predictions, records, dt)
            # Finished pieces go to the host, so that a device holds no more than one.
            runs.append(run if traced or len(pieces) == 1 else jax.device_get(run))
    return runs[0] if len(runs) == 1 else _join(runs, len(images))


def _result(
    network: SpikingNetwork, state: State, predictions: Array, records: PyTree, dt: float
) -> Simulation:
    spiked = state.first_spike_class >= 0
    steps = len(predictions)
    return Simulation(
        predictions=predictions,
        first_spike_prediction=state.first_spike_class,
        first_spike_time=jnp.where(spiked, state.first_spike_step * dt, jnp.nan),
        spike_counts=state.spike_counts,
        input_spike_counts=state.input_spike_counts,
        synaptic_operations=metrics.synaptic_operations(
            network.network, state.input_spike_counts, state.spike_counts
        ),
        times=(state.step - steps + 1 + jnp.arange(steps)) * dt,
        records=records,
        state=state,
    )


# -- The scan --------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("steps", "rules"))
def _scan(
    network: SpikingNetwork,
    probabilities: Array,
    keys: Array,
    state: State,
    *,
    steps: int,
    rules: _Rules,
) -> tuple[State, tuple[Array, PyTree]]:
    """The next steps of one piece of the batch: the new state, predictions and records."""
    dtype = network.network.dtype
    probabilities = probabilities.astype(dtype)
    fire = partial(
        neurons.integrate_and_fire,
        reset=rules.reset,
        spike=rules.spike,
        refractory_steps=state.refractory_steps,
    )

    def one_step(state: State, _: None) -> tuple[State, tuple[Array, PyTree]]:
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, state.step)
        inputs = jax.vmap(rules.encode)(step_keys, probabilities).astype(dtype)
        new_neurons, spikes = propagate(network, state.neurons, inputs, fire)
        state = _counted(state, new_neurons, inputs, spikes)
        output = readout.Output(
            state.spike_counts[-1],
            new_neurons[-1].potential,
            network.thresholds[-1].astype(dtype),
            state.first_spike_class,
        )
        prediction = rules.read(output)
        potentials = [layer.potential for layer in new_neurons]
        record = rules.record and rules.record(Step(inputs, spikes, potentials, prediction))
        _check_record(record, len(inputs))
        return state, (prediction, record)

    return lax.scan(one_step, state, None, length=steps)


def propagate(
    network: SpikingNetwork,
    old: Sequence[neurons.NeuronState],
    inputs: Array,
    fire: Callable[[neurons.NeuronState, Array, Array], tuple[neurons.NeuronState, Array]],
) -> tuple[list[neurons.NeuronState], list[Array]]:
    """One step of all layers: a spike reaches all later layers within its step.

    Args:
        network: the spiking network.
        old: the state of each layer `[B, ...]`.
        inputs: the input of the first layer in this step `[B, ...]`.
        fire: one step of a layer, (state, current, threshold) ↦ (state, spikes).

    Returns:
        The new state and the spikes of each layer.
    """
    dtype = inputs.dtype
    new, spikes, sent = [], [], inputs
    for layer, state, threshold, amplitude in zip(
        network.network.layers, old, network.thresholds, network.amplitudes, strict=True
    ):
        state, fired = fire(state, layer(sent), threshold.astype(dtype))
        new.append(state)
        spikes.append(fired)
        sent = fired * amplitude.astype(dtype)
    return new, spikes


def _counted(
    state: State, new_neurons: list[neurons.NeuronState], inputs: Array, spikes: list[Array]
) -> State:
    """The state after a step with these spikes."""
    first, first_class = first_spikes(state.first_spike_class, spikes[-1])
    return replace(
        state,
        step=state.step + 1,
        neurons=new_neurons,
        input_spike_counts=state.input_spike_counts + (inputs != 0),
        spike_counts=[
            counts + fired for counts, fired in zip(state.spike_counts, spikes, strict=True)
        ],
        first_spike_class=first_class,
        first_spike_step=jnp.where(first, state.step + 1, state.first_spike_step),
    )


def first_spikes(known: Array, output: Array) -> tuple[Array, Array]:
    """Which samples have their first output spike in this step, and its class for all so far."""
    first = (known < 0) & (output > 0).any(1)
    return first, jnp.where(first, output.argmax(1).astype(jnp.int32), known)


def _initial_state(
    network: SpikingNetwork,
    images: Array,
    samples: AnyArray,
    dt: float,
    potentials: list[Array],
    refractory_steps: int,
) -> State:
    batch, shapes = len(images), network.network.shapes
    dtype = network.network.dtype
    start = [
        neurons.initial_state((batch, *shape), potential.astype(dtype), refractory_steps > 1)
        for potential, shape in zip(potentials, shapes, strict=True)
    ]
    return State(
        step=jnp.zeros((), jnp.int32),
        neurons=start,
        input_spike_counts=jnp.zeros(images.shape, dtype),
        spike_counts=[jnp.zeros((batch, *shape), dtype) for shape in shapes],
        first_spike_class=jnp.full(batch, -1, jnp.int32),
        first_spike_step=jnp.zeros(batch, jnp.int32),
        samples=jnp.asarray(samples),
        dt=jnp.asarray(dt, jnp.float32),
        refractory_steps=jnp.asarray(refractory_steps, jnp.int32),
    )


def sample_keys(key: ArrayLike, samples: ArrayLike) -> Array:
    """A key for each sample that depends on its number alone, and not on its place in a batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(_counter_based(key), samples)


def _counter_based(key: ArrayLike) -> Array:
    """The key as one of Threefry, whose draws do not depend on the place in a batch."""
    if isinstance(key, int):
        return jax.random.key(key, impl="threefry2x32")
    typed = jnp.asarray(key)
    if typed.ndim == 0 and jnp.issubdtype(typed.dtype, jnp.integer):
        return jax.random.key(typed, impl="threefry2x32")
    if typed.dtype == jnp.uint32 and typed.ndim == 1:
        typed = jax.random.wrap_key_data(typed)
    if typed.shape != () or not jnp.issubdtype(typed.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"key has shape {typed.shape} and dtype {typed.dtype}; give one key, such as "
            "jax.random.key(0), or an integer."
        )
    if str(jax.random.key_impl(typed)) == "threefry2x32":
        return typed
    return jax.random.wrap_key_data(jax.random.bits(typed, (2,), jnp.uint32), impl="threefry2x32")


# -- Pieces ----------------------------------------------------------------------------------------


def _fitting_batch(network: SpikingNetwork) -> int:
    """How many samples a device takes at a time."""
    numbers = sum(map(prod, (network.network.input_shape, *network.network.shapes)))
    budget = _BYTES_PER_PIECE.get(jax.default_backend(), _BYTES_PER_PIECE_OF_ACCELERATORS)
    return max(1, budget // (4 * 3 * numbers))


def _pieces(samples: int, batch_size: int) -> list[np.ndarray]:
    """Indices of the samples in pieces of one size, so that one program serves all.

    The last piece is filled up by repeating the last sample.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; it must be at least 1.")
    count = ceil(samples / batch_size)
    size = ceil(samples / count)
    indices = np.minimum(np.arange(count * size), samples - 1)
    return list(indices.reshape(count, size))


def _chunks(steps: int) -> list[int]:
    """The steps in chunks of one length, so that one program serves all."""
    length = max(n for n in range(1, _STEPS_PER_CHUNK + 1) if steps % n == 0)
    if length < _STEPS_PER_CHUNK // 5:  # a number of steps with no good divisor
        return [steps]
    return [length] * (steps // length)


def _take(state: State, samples: np.ndarray) -> State:
    """The state of some samples; scalars belong to all."""
    return jax.tree.map(lambda leaf: leaf[samples] if leaf.ndim else leaf, state)


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
        if name == "times":
            return values[0]
        if name in ("predictions", "records"):
            return jax.tree.map(lambda leaf: leaf[:, :size], _concatenate(values, axis=1))
        joined = _concatenate(values, axis=0)
        return jax.tree.map(lambda leaf: leaf[:size] if leaf.ndim else leaf, joined)

    return Simulation(**{field.name: together(field.name) for field in fields(Simulation)})


# -- Checks ----------------------------------------------------------------------------------------


def checked_times(
    duration: float, dt: float, max_rate: ArrayLike, refractory_period: float
) -> tuple[int, int]:
    """The number of steps and of refractory steps."""
    duration, dt = float(duration), float(dt)
    if not (np.isfinite(dt) and dt > 0):
        raise ValueError(f"dt={dt}; a step must take more than 0 seconds.")
    steps = round(duration / dt) if np.isfinite(duration) else 0
    if steps < 1 or abs(steps - duration / dt) > 1e-6 * steps:
        raise ValueError(
            f"duration={duration} is {duration / dt:g} steps of dt={dt}; it must be a whole number "
            "of steps, at least 1. Both are in seconds."
        )
    if not (np.isfinite(refractory_period) and refractory_period >= 0):
        raise ValueError(f"refractory_period={refractory_period}; it must be at least 0 seconds.")
    if np.ndim(max_rate):
        raise ValueError(f"max_rate has shape {np.shape(max_rate)}; it must be one number.")
    if is_known(max_rate):
        rate = float(max_rate)  # type: ignore[arg-type]
        if not rate >= 0:
            raise ValueError(f"max_rate={rate:g}; a rate must be at least 0 hertz.")
        if rate * dt > 1 + 1e-6:
            raise ValueError(
                f"max_rate={rate:g} Hz times dt={dt:g} s is {rate * dt:g}, but a pixel spikes at "
                f"most once in a step: take max_rate <= {1 / dt:g} or dt <= {1 / rate:g}."
            )
    return steps, in_steps(refractory_period, dt)


def in_steps(refractory_period: float, dt: float) -> int:
    """A refractory period in whole steps; a millionth of it is rounding."""
    return ceil(refractory_period / dt * (1 - 1e-6))


def check_network(network: SpikingNetwork) -> None:
    """Raise ValueError where a spiking network cannot be simulated, and say why."""
    expect(network, SpikingNetwork, "balance_thresholds(network, scales)")
    per_layer(network.network, network.thresholds, "thresholds")
    per_layer(network.network, network.amplitudes, "amplitudes")
    shape = network.network.shapes[-1]
    if len(shape) != 1:
        raise ValueError(
            f"the output layer has neurons of shape {shape}; classes need one axis, so flatten the "
            "model's outputs."
        )
    for index, layer in enumerate(network.network.layers):
        threshold, name = network.thresholds[index], network.network.name(index)
        if not holds(lambda value: value > 0, threshold):
            raise ValueError(f"{name}: its thresholds must be positive, not {threshold}.")
        if not all(holds(jnp.isfinite, weights) for weights in layer.weights):
            raise ValueError(f"{name}: its weights are not all finite; train it again.")


def _check_record(record: PyTree, batch: int) -> None:
    for leaf in jax.tree.leaves(record):
        if jnp.shape(leaf)[:1] != (batch,):
            raise ValueError(
                f"record returned an array of shape {jnp.shape(leaf)} for {batch} samples; its "
                "first axis must be the samples, since a batch may be computed in pieces."
            )


def _checked_samples(samples: ArrayLike | Sequence[int] | None, batch: int) -> Array:
    numbers = jnp.arange(batch) if samples is None else jnp.asarray(samples)
    if numbers.shape != (batch,) or not jnp.issubdtype(numbers.dtype, jnp.integer):
        raise ValueError(
            f"samples has shape {numbers.shape} and dtype {numbers.dtype}; it must be one integer "
            f"for each of the {batch} images."
        )
    return numbers


def _check_state(
    network: SpikingNetwork, state: State, batch: int, dt: float, refractory_steps: int
) -> None:
    expected = [(batch, *shape) for shape in network.network.shapes]
    found = [layer.potential.shape for layer in state.neurons]
    if found != expected:
        raise ValueError(
            f"the state has potentials of shape {found}, but this network and these {batch} images "
            f"need {expected}; go on with the network and the images of the earlier run."
        )
    if not holds(lambda value: value == np.float32(dt), state.dt):
        raise ValueError(f"the state comes from a run with dt={state.dt:g}, not {dt:g}.")
    if not holds(lambda value: value == refractory_steps, state.refractory_steps):
        raise ValueError(
            f"the state comes from a run with a refractory period of {state.refractory_steps} "
            f"steps, not {refractory_steps}; go on with the same."
        )
