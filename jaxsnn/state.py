"""What a simulation is made of, whatever the engine: its job, its rules, its state.

All engines take a `Job` and carry a `State` from step to step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxsnn import encoding, neurons, readout, stopping
from jaxsnn.fixed_point import FixedPointNetwork
from jaxsnn.network import AnyArray, is_known
from jaxsnn.synapses import AnyNetwork


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
        state: where to go on, or None.
        rules: the functions that make up the simulation.
        stop: when a sample needs no more steps, or None.
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
            rate = numbers.asarray(self.max_rate, np.float32)
            return self.images.astype(np.float32) * (rate * np.float32(self.dt))
        return self.images * (self.max_rate * self.dt)


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
