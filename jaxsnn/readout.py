"""What the network says in a step: one function from the output layer so far to a class.

Classes count from 0; a sample that is not decided yet has class -1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxsnn.support.arrays import AnyArray, static_field
from jaxsnn.support.typed import typed


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Output:
    """The output layer after a step.

    ==================  ================  ==================================================
    field               shape             meaning
    ==================  ================  ==================================================
    spike_counts        [B, classes]      spikes of each output neuron so far
    potential           [B, classes]      membrane potentials
    threshold           [] or [classes]   firing thresholds; 0 where the outputs never spike
    first_spike_class   [B]               neuron that spiked first, or -1
    spiking                               whether the outputs spike; False for a last layer
                                          without a ReLU, whose potentials accumulate
    received            [B, classes]      what each has received in all, and started with; or
                                          None, where it is not known
    ==================  ================  ==================================================
    """

    spike_counts: AnyArray
    potential: AnyArray
    threshold: AnyArray
    first_spike_class: AnyArray
    spiking: bool = static_field(default=True)
    received: AnyArray | None = None

    @property
    def scores(self) -> Array:
        """The potential of each neuron, had it never been reset: what it received `[B, classes]`.

        Where that is not known, V + θ·(spikes), which is the same under the reset by subtraction
        and for outputs that never spike, and a lower bound after a reset to zero.
        """
        if self.received is not None:
            return self.received
        return self.potential + self.threshold * self.spike_counts


Readout = Annotated[
    Callable[[Output], Int[Array, " batch"]],
    "a function of the output layer, such as jaxsnn.readout.spike_count, "
    "jaxsnn.readout.first_spike, jaxsnn.readout.membrane_potential or jaxsnn.readout.score",
]


@typed
def spike_count(output: Output) -> Int[Array, " batch"]:
    """The neuron with the most spikes, ties to the lowest index (Diehl et al. 2015).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn import readout
        >>> counts = jnp.array([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
        >>> first = jnp.array([0, -1])
        >>> readout.spike_count(readout.Output(counts, counts, jnp.ones(()), first)).tolist()
        [1, -1]
    """
    return _largest(output.spike_counts)


@typed
def first_spike(output: Output) -> Int[Array, " batch"]:
    """The neuron that spiked first, ties to the lowest index.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn import readout
        >>> counts = jnp.array([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
        >>> first = jnp.array([0, -1])
        >>> readout.first_spike(readout.Output(counts, counts, jnp.ones(()), first)).tolist()
        [0, -1]
    """
    return output.first_spike_class


@typed
def membrane_potential(output: Output) -> Int[Array, " batch"]:
    """The neuron that received most: its potential, had it never been reset.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn import readout
        >>> counts = jnp.array([[1.0, 1.0]])
        >>> potential = jnp.array([[0.25, 0.5]])
        >>> output = readout.Output(counts, potential, jnp.ones(()), jnp.array([0]))
        >>> readout.membrane_potential(output).tolist()
        [1]
    """
    return _largest(output.scores)


@typed
def score(output: Output) -> Int[Array, " batch"]:
    """The neuron with the largest score, ties to the lowest index; no sample is undecided.

    The default for outputs without a ReLU, of which all may be negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn import readout
        >>> potential = jnp.array([[-0.5, -0.25]])
        >>> counts, first = jnp.zeros((1, 2)), jnp.array([-1])
        >>> output = readout.Output(counts, potential, jnp.zeros(()), first, spiking=False)
        >>> readout.score(output).tolist()
        [1]
    """
    return output.scores.argmax(1).astype(jnp.int32)


@typed
def default(spiking: bool) -> Readout:
    """The readout of a run that names none: spikes where the outputs spike, else scores.

    Example:
        >>> from jaxsnn import readout
        >>> readout.default(True) is readout.spike_count, readout.default(False) is readout.score
        (True, True)
    """
    return spike_count if spiking else score


@partial(jax.jit, inline=True)  # one program where nothing is traced
def _largest(scores: Float[Array, "batch classes"]) -> Int[Array, " batch"]:
    decided = scores.max(1) > 0
    return jnp.where(decided, scores.argmax(1), -1).astype(jnp.int32)
