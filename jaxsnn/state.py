"""What a simulation is made of, whatever the engine: its job, its rules, its state.

All engines take a `Job` and carry a `State` from step to step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxsnn import encoding, neurons, readout, stopping
from jaxsnn.digests import checksums, digest, fingerprint
from jaxsnn.fixed_point import FixedPointNetwork
from jaxsnn.network import AnyArray, Shape, is_known, remembered
from jaxsnn.synapses import AnyNetwork


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
    grid                []             `FixedPointNetwork.grid`; 0 in floating point
    origin                             checksums of what the run was made of; None: not known
    ==================  =============  ========================================================
    """

    step: AnyArray
    neurons: list[neurons.NeuronState]
    input_spike_counts: AnyArray
    spike_counts: list[AnyArray]
    first_spike_class: AnyArray
    first_spike_step: AnyArray
    exit_step: AnyArray
    samples: AnyArray
    dt: AnyArray
    refractory_steps: AnyArray
    grid: AnyArray
    origin: Origin | None = None

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


class Rules(NamedTuple):
    """The functions that make up a simulation; they are part of the compiled program."""

    encode: encoding.Encoding
    reset: neurons.Reset
    spike: neurons.Spike
    read: readout.Readout
    record: Callable[[Step], PyTree] | None = None
    fused: bool = False  # whether the neurons are updated by the kernel of `pallas_update`


class Job(NamedTuple):
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
        potentials: for each layer the membrane potential at the start.
        state: the state to resume from, or None.
        rules: the functions that make up the simulation.
        stop: when a sample needs no more steps, or None.
        origin: checksums of all of this, for the state.
    """

    network: AnyNetwork
    images: AnyArray
    keys: AnyArray
    samples: AnyArray
    max_rate: AnyArray
    dt: float
    steps: int
    refractory_steps: int
    potentials: list[AnyArray]
    state: State | None
    rules: Rules
    stop: stopping.Stop | None = None
    origin: Origin | None = None

    @property
    def grid(self) -> AnyArray:
        """What the potentials count in, as a number: see `State`."""
        if isinstance(self.network, FixedPointNetwork):
            return self.network.grid
        return jnp.zeros((), jnp.uint32)

    @property
    def probabilities(self) -> AnyArray:
        """For each input the probability of a spike in a step `[B, ...]`.

        In fixed point it is one product of float32 numbers, so that it is the same everywhere.
        """
        if isinstance(self.network, FixedPointNetwork):
            numbers = np if is_known(self.max_rate) else jnp
            rate: Any = numbers.asarray(self.max_rate, np.float32)
            if numbers is jnp:  # a traced rate that is out of range gives no input, not any
                rate = jnp.where(_fits(rate, self.dt), rate, 0)
            return self.images.astype(np.float32) * (rate * np.float32(self.dt))
        return self.images * (self.max_rate * self.dt)


def spoiled_if_invalid(job: Job, state: State) -> State:
    """The state with counts of nan where traced settings are out of range, which no check can see.

    Potentials of nan never reach a threshold, so that all samples stay undecided.
    """
    network = job.network
    if isinstance(network, FixedPointNetwork):
        return state
    valid = [
        value > 0 for value in (*network.thresholds, *network.amplitudes) if not is_known(value)
    ]
    if not is_known(job.max_rate):
        valid.append(_fits(job.max_rate, job.dt))
    if not valid:
        return state
    nan = jnp.where(jnp.stack([jnp.all(value) for value in valid]).all(), 0.0, jnp.nan)
    spoiled = [replace(layer, potential=layer.potential + nan) for layer in state.neurons]
    return replace(
        state,
        neurons=spoiled,
        input_spike_counts=state.input_spike_counts + nan,
        spike_counts=[counts + nan for counts in state.spike_counts],
    )


def _fits(rate: AnyArray, dt: float) -> AnyArray:
    """Whether a rate gives probabilities of a spike in a step."""
    return (rate >= 0) & (rate * dt <= 1 + 1e-6)


def origin_of(
    network: AnyNetwork, images: AnyArray, keys: AnyArray, max_rate: AnyArray, rules: Rules
) -> Origin:
    """Checksums of what a run is made of."""
    numbers: Any = np if is_known(max_rate) else jnp
    return Origin(
        images=checksums(images),
        keys=keys,
        rate=numbers.asarray(max_rate, np.float32),
        functions=_of_functions(rules.encode, rules.reset, network.network.input_shape),
        thresholds=remembered(network, "_checksum", _of_thresholds),
        weights=remembered(network.network, "_checksum", _checksum),
    )


def _of_thresholds(network: AnyNetwork) -> AnyArray:
    fixed = isinstance(network, FixedPointNetwork)
    return _checksum([network.thresholds, network.units if fixed else network.amplitudes])


def _checksum(tree: Any) -> AnyArray:
    leaves = jax.tree.leaves(tree)
    numbers = np if all(map(is_known, leaves)) else jnp
    return checksums(numbers.concatenate([numbers.ravel(leaf) for leaf in leaves])[None])[0]


@lru_cache(maxsize=64)
def _of_functions(encode: encoding.Encoding, reset: neurons.Reset, shape: Shape) -> AnyArray:
    pixels, potentials = jnp.zeros(shape), jnp.zeros((1, 1))
    prints = (
        fingerprint(encode, jax.random.key(0), pixels),
        fingerprint(reset, potentials, potentials, potentials),
    )
    return cast(AnyArray, np.asarray(int(digest(*prints)[:8], 16), np.uint32))


def parts_of_time(steps: int, most: int) -> list[int]:
    """The steps in parts of one length, so that one program serves all.

    Args:
        steps: how many steps.
        most: how many of them a part has, at most.

    Example:
        >>> from jaxsnn.state import parts_of_time
        >>> parts_of_time(500, 200), parts_of_time(101, 50)
        ([125, 125, 125, 125], [50, 50, 1])
    """
    length = max(n for n in range(1, most + 1) if steps % n == 0)
    if length * 5 < most:  # a number of steps with no good divisor
        whole, rest = divmod(steps, most)
        return [most] * whole + [rest] * (rest > 0)
    return [length] * (steps // length)
