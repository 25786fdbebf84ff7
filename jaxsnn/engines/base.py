"""What an engine is, what it is given, and what it returns.

A `Run` is one call of `simulate`, checked; an `Engine` turns it into a `Trajectory`, whose `State`
another run can resume from. Words, with one meaning each:

    batch     samples that are computed together
    chunk     steps for which a layer's currents are computed as one product
    segment   steps between two looks by the host
    block     points of a sweep that are computed together
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import canonicalize_dtype
from jax.typing import ArrayLike

from jaxsnn import encoding, neurons, readout, stopping
from jaxsnn.conversion.executable import Executable
from jaxsnn.network import Network
from jaxsnn.support.arrays import (
    AnyArray,
    Shape,
    all_known,
    cached,
    for_batches,
    is_known,
    numbers_of,
    rows_of,
)
from jaxsnn.support.digests import checksums, digest, fingerprint


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Origin:
    """Checksums of what a run was made of: only with the same does its state mean what it says.

    ==========  ========  =========================================
    field       shape     of
    ==========  ========  =========================================
    images      [B]       the pixels of each sample
    keys        [B, 2]    the random key of each sample, as it is
    rate        []        max_rate
    functions   []        the encoding and the reset
    thresholds  []        thresholds and amplitudes of all layers
    weights     []        the weights
    ==========  ========  =========================================
    """

    images: AnyArray
    keys: AnyArray
    rate: AnyArray
    functions: AnyArray
    thresholds: AnyArray
    weights: AnyArray

    def differing(self, other: Origin) -> list[str]:
        """The names of what differs; a tracer passes, since nothing is known of it."""
        pairs = {
            "images": (self.images, other.images),
            "key or samples": (self.keys, other.keys),
            "max_rate": (self.rate, other.rate),
            "encode or reset": (self.functions, other.functions),
            "thresholds or amplitudes": (self.thresholds, other.thresholds),
            "weights": (self.weights, other.weights),
        }
        known = {name: pair for name, pair in pairs.items() if all(map(is_known, pair))}
        return [name for name, pair in known.items() if not np.array_equal(*pair)]


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
    exit_step           [B]            steps until a stop rule ended the sample, 0 if none has
    samples             [B]            numbers of the samples, for the random draws
    dt                  []             duration of a step in seconds
    refractory_steps    []             refractory period in steps
    arithmetic          []             checksum of the step sizes; 0 in floating point
    origin                             checksums of what the run was made of; None: not known
    received            [B, classes]   what each output has received in all, and started with, or
                                       since a delayed readout began; None: not known
    ==================  =============  ========================================================
    """

    step: AnyArray
    neurons: list[neurons.NeuronState]
    input_spike_counts: Any
    spike_counts: list[Any]
    first_spike_class: AnyArray
    first_spike_step: AnyArray
    exit_step: AnyArray
    samples: AnyArray
    dt: AnyArray
    refractory_steps: AnyArray
    arithmetic: AnyArray
    origin: Origin | None = None
    received: AnyArray | None = None

    def detached(self) -> State:
        """The state without its origin: it may resume with other images, rates, resets and so on.

        Example:
            >>> import jax, jax.numpy as jnp, jaxsnn
            >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), jnp.zeros((1, 1)))
            >>> snn = jaxsnn.balance_thresholds(network, 1.0)
            >>> bright, dark = jnp.ones((1, 1)), jnp.zeros((1, 1))
            >>> state = jaxsnn.simulate(snn, bright, key=0, duration=0.004).state
            >>> run = jaxsnn.simulate(snn, dark, key=0, duration=0.004, state=state.detached())
            >>> run.spike_counts[0].tolist()
            [[2.0]]
        """
        return replace(self, origin=None)

    def __repr__(self) -> str:
        if not is_known(self.step):
            return "State(traced)"
        return f"State({len(self.samples)} samples after {int(self.step)} steps)"


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


class Behaviour(NamedTuple):
    """The functions that make up a simulation; they are part of the compiled program."""

    encode: encoding.Encoding
    reset: neurons.Reset
    spike: neurons.Spike
    read: readout.Readout
    record: Callable[[Step], Any] | None = None


class Run(NamedTuple):
    """One call of `simulate`, checked.

    Attributes:
        network: the spiking network.
        images: pixels `[B, ...]`.
        keys: the words of the random key of each sample `[B, 2]`.
        samples: their numbers `[B]`.
        max_rate: rate in hertz of a pixel of value 1.
        dt: duration of a step in seconds.
        steps: the number of steps.
        refractory_steps: refractory period in steps.
        state: the state to resume from; None at the start.
        behaviour: the functions that make up the simulation.
        stop: when a sample needs no more steps, or None.
        origin: checksums of all of this, for the state.
        per_step: whether the trajectory must have `spikes` and `operations`.
    """

    network: Executable
    images: AnyArray
    keys: AnyArray
    samples: AnyArray
    max_rate: ArrayLike
    dt: float
    steps: int
    refractory_steps: int
    state: State | None
    behaviour: Behaviour
    stop: stopping.Stop | None = None
    origin: Origin | None = None
    per_step: bool = False

    @property
    def steps_done(self) -> int:
        """The number of steps before this run, as far as it is known."""
        known = self.state is not None and is_known(self.state.step)
        return int(self.state.step) if known else 0  # type: ignore[union-attr]

    @property
    def traced(self) -> bool:
        """Whether JAX traces any of it."""
        given = self.images, self.keys, self.max_rate, self.state, self.stop
        return not (cached(self.network, "known", all_known) and all_known(given))

    @property
    def probabilities(self) -> AnyArray:
        """For each input the probability of a spike in a step `[B, ...]`."""
        return self.network.probabilities(self.images, self.max_rate, self.dt)

    def of_samples(self, samples: np.ndarray) -> Run:
        """The run of some of the samples."""
        return self._replace(
            images=rows_of(self.images, samples),
            keys=rows_of(self.keys, samples),
            samples=rows_of(self.samples, samples),
            state=None if self.state is None else take_samples(self.state, samples),
            origin=take_samples(self.origin, samples),
        )


class Trajectory(NamedTuple):
    """What an engine returns for T steps and B samples.

    Attributes:
        state: the state after the last step.
        predictions: the class after every step `[T, B]`.
        records: what the `record` function returned, with leaves `[T, B, ...]`, or None.
        spikes: if `Run.per_step`, spikes of the input and of each layer `[T, B, 1 + layers]`.
        operations: if `Run.per_step`, synaptic operations `[T, B]`, as integers.
        scores: the score of each class after every step `[T, B, classes]`, as `Output.scores`; None
            where the engine does not give them.
    """

    state: State
    predictions: AnyArray
    records: Any = None
    spikes: AnyArray | None = None
    operations: AnyArray | None = None
    scores: AnyArray | None = None


class Counts(NamedTuple):
    """What happened in each of T steps, summed over samples: integers, exact in any order.

    =============  ====================  ======================================================
    field          shape                 meaning
    =============  ====================  ======================================================
    correct        [..., T]              samples predicted correctly after this step
    undecided      [..., T]              samples without a prediction after it
    first          [..., T]              samples whose first output spike is in this step
    first_correct  [..., T]              those of them whose first output spike is correct
    spikes         [..., T, 1 + layers]  spikes of the input and of each layer in this step
    operations     [..., T, 2]           synaptic operations of connections whose sources have not
                                         all the same fan-out: multiples of 65,536, and the rest
    =============  ====================  ======================================================
    """

    correct: Any
    undecided: Any
    first: Any
    first_correct: Any
    spikes: Any
    operations: Any

    @classmethod
    def shapes(cls, layers: int) -> Counts:
        """The shapes of the counts of one step."""
        return cls((), (), (), (), (1 + layers,), (2,))


def no_progress(count: int) -> None:
    """The `advance` of a run that nobody watches."""
    del count


class Engine:
    """How a run is simulated. The options of an engine are its fields.

    To add one, write a subclass with a name and `simulate`, and call `jaxsnn.engines.register`.
    An engine may also have `simulate_points`, as `jaxsnn.engines.Scan` has; a sweep in another
    engine simulates its points one by one.
    """

    name: str

    def unsupported(self, run: Run) -> str | None:
        """Why the engine cannot simulate a run, as the end of a sentence; None where it can."""
        return None

    def simulate(self, run: Run, advance: Callable[[int], Any]) -> Trajectory:
        """Simulate a run, calling `advance` with the number of sample-steps whenever some are done.

        Args:
            run: a run that the engine supports.
            advance: called with the number of sample-steps that were done.

        Returns:
            The trajectory.
        """
        raise NotImplementedError

    def samples_at_once(self, run: Run) -> int:
        """How many samples to give to `simulate` at a time; by default all."""
        return len(run.images)

    def bytes_per_sample(self, run: Run) -> int:
        """The memory that a sample takes: state, inputs, and what is returned of every step."""
        network = run.network.network
        neurons = sum(map(prod, network.shapes))
        return 8 * (neurons + prod(network.input_shape)) + bytes_of_step(network) * run.steps


def bytes_of_step(network: Network) -> int:
    """The memory that a sample takes for each step: outputs, spikes of each layer, operations."""
    return 16 * prod(network.shapes[-1]) + 4 * (1 + len(network.layers)) + 8


def initial_state(run: Run) -> State:
    """The state in which a run begins: the one that it resumes from, or that of neurons at rest."""
    if run.state is not None:
        return replace(run.state, received=received_so_far(run))
    network, arithmetic = run.network.network, arithmetic_of(run.network)
    # By NumPy, which compiles nothing, unless all of it would be moved to a device.
    on_host = jax.default_backend() == "cpu" and not run.traced
    numbers, resting = (np, at_rest) if on_host else (jnp, _at_rest_on_device)
    state = resting(
        numbers,
        run.network.initial_potentials,
        batch=len(run.samples),
        shapes=tuple(network.shapes),
        input_shape=network.input_shape,
        dtype=run.network.dtype,
        counting=run.refractory_steps > 1,
    )
    given = run.samples, run.dt, run.refractory_steps, arithmetic
    array = numbers_of(given).asarray
    return State(
        **state,
        samples=array(run.samples),
        dt=array(run.dt, np.float32),
        refractory_steps=array(run.refractory_steps, np.int32),
        arithmetic=array(arithmetic, np.uint32),
        origin=run.origin,
    )


def at_rest(
    numbers: Any,
    potentials: list[AnyArray] | None,
    *,
    batch: int,
    shapes: tuple[Shape, ...],
    input_shape: Shape,
    dtype: Any,
    counting: bool,
) -> dict[str, Any]:
    """The fields of a `State` that belong to neurons, before the first step.

    Args:
        numbers: NumPy or `jax.numpy`.
        potentials: for each layer the membrane potential at the start; None is 0.
        batch: the number of samples.
        shapes: for each layer the shape of its neurons.
        input_shape: that of the inputs.
        dtype: of potentials and counts.
        counting: whether there are refractory periods.
    """
    zero: Any = np.zeros((), dtype)
    potentials = potentials or [zero] * len(shapes)
    starts = [
        neurons.initial_state((batch, *shape), numbers.asarray(potential), counting)
        for shape, potential in zip(shapes, potentials, strict=True)
    ]
    return dict(
        step=numbers.zeros((), np.int32),
        neurons=starts,
        input_spike_counts=numbers.zeros((batch, *input_shape), dtype),
        spike_counts=[numbers.zeros((batch, *shape), dtype) for shape in shapes],
        first_spike_class=numbers.full(batch, -1, np.int32),
        first_spike_step=numbers.zeros(batch, np.int32),
        exit_step=numbers.zeros(batch, np.int32),
        received=starts[-1].potential,
    )


_at_rest_on_device = jax.jit(
    at_rest, static_argnames=("numbers", "batch", "shapes", "input_shape", "dtype", "counting")
)


def received_so_far(run: Run) -> AnyArray:
    """What the outputs had received before a run that resumes, as far as that is known.

    A state without it, of an engine that does not keep it, gives what potentials and spikes say.
    """
    state = run.state
    assert state is not None
    if state.received is not None:
        return state.received
    threshold = run.network.thresholds[-1] if run.network.network.layers[-1].spiking else 0
    return state.neurons[-1].potential + threshold * state.spike_counts[-1]


def take_samples(tree: Any, samples: np.ndarray) -> Any:
    """The state or origin of some samples; scalars belong to all."""
    return jax.tree.map(lambda leaf: rows_of(leaf, samples) if leaf.ndim else leaf, tree)


def output_seen(
    counts: AnyArray,
    potential: AnyArray,
    received: AnyArray,
    threshold: AnyArray,
    step_size: Any,
    first_class: AnyArray,
    spiking: bool = True,
) -> readout.Output:
    """The output layer as readouts and stop rules see it: numbers of floating point.

    They are of NumPy where what is given is, else of JAX. With a step size, all but the last three
    are integers.
    """
    given = counts, potential, received
    numbers: Any = np if all(isinstance(array, np.ndarray) for array in given) else jnp
    counts, potential, received, threshold, first_class = map(
        numbers.asarray, (*given, threshold, first_class)
    )
    threshold = for_batches(threshold, potential.shape[1:], potential.dtype)
    if step_size is not None:
        counts = counts.astype(canonicalize_dtype(float))
        step_size = for_batches(numbers.asarray(step_size), potential.shape[1:], jnp.float32)
        potential, received, threshold = (
            values.astype(step_size.dtype) * step_size
            for values in (potential, received, threshold)
        )
    return readout.Output(counts, potential, threshold, first_class, spiking, received)


# -- Checksums -------------------------------------------------------------------------------------


def arithmetic_of(network: Executable) -> AnyArray:
    """A checksum of the step sizes: potentials of networks that differ in it do not compare."""
    return cached(network, "arithmetic", lambda snn: _checksum(snn.step_sizes))


def origin_of(
    network: Executable,
    images: AnyArray,
    keys: AnyArray,
    max_rate: ArrayLike,
    encode: encoding.Encoding,
) -> Origin:
    """Checksums of what a run is made of."""
    numbers: Any = np if is_known(max_rate) else jnp
    return Origin(
        images=checksums(images),
        keys=keys,
        rate=numbers.asarray(max_rate, np.float32),
        functions=_of_functions(encode, network.reset, network.network.input_shape),
        thresholds=cached(network, "checksum", _of_neurons),
        weights=cached(network.network, "checksum", _checksum),
    )


def _of_neurons(network: Executable) -> AnyArray:
    numbers = numbers_of(network.amplitudes)
    amplitudes = jax.tree.map(lambda a: numbers.asarray(a, np.float32), network.amplitudes)
    return _checksum([network.thresholds, amplitudes, network.step_sizes])


def _checksum(tree: Any) -> AnyArray:
    """A number of 32 bits for all arrays of a pytree; 0 if there are none."""
    leaves, numbers = jax.tree.leaves(tree), numbers_of(tree)
    if not leaves:
        return cast(AnyArray, np.zeros((), np.uint32))
    found = [checksums(numbers.ravel(leaf)[None])[0] for leaf in leaves]
    odd = 2 * np.arange(len(found), dtype=np.uint32) + 1
    return (numbers.stack(found) * odd).sum(dtype=np.uint32)


@lru_cache(maxsize=64)
def _of_functions(encode: encoding.Encoding, reset: neurons.Reset, shape: Shape) -> AnyArray:
    number = jnp.result_type(float)
    pixels, potentials = (jax.ShapeDtypeStruct(axes, number) for axes in (shape, (1, 1)))
    prints = (
        fingerprint(encode, jax.random.key(0), pixels),
        fingerprint(reset, potentials, potentials, potentials),
    )
    return cast(AnyArray, np.asarray(int(digest(*prints)[:8], 16), np.uint32))


@lru_cache
def segments(steps: int, most: int) -> tuple[int, ...]:
    """The steps in segments of one length, so that one program computes all.

    Args:
        steps: how many steps.
        most: how many of them a segment has, at most.

    Example:
        >>> from jaxsnn.engines.base import segments
        >>> segments(500, 200), segments(101, 50)
        ((125, 125, 125, 125), (50, 50, 1))
    """
    length = max(n for n in range(1, most + 1) if steps % n == 0)
    if length * 5 < most:  # a number of steps with no good divisor
        whole, rest = divmod(steps, most)
        return (most,) * whole + (rest,) * (rest > 0)
    return (length,) * (steps // length)
