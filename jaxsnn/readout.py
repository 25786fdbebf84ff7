"""What the network says in a step: one function from the output layer so far to a class.

Classes count from 0; a sample that is not decided yet has class -1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, cast

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxsnn.support.arrays import AnyArray, compiled, numbers_of, static_field
from jaxsnn.support.typed import Count, typed


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
    def scores(self) -> AnyArray:
        """The potential of each neuron, had it never been reset: what it received `[B, classes]`.

        Of a delayed readout, what it received since it began. Where that is not known,
        V + θ·(spikes), which is the same under the reset by subtraction and for outputs that never
        spike, and a lower bound after a reset to zero.
        """
        if self.received is not None:
            return self.received
        return self.potential + self.threshold * self.spike_counts


Readout = Annotated[
    Callable[[Output], Int[Array, " batch"]],
    "a function of the output layer, such as jaxsnn.readout.spike_count, "
    "jaxsnn.readout.first_spike, jaxsnn.readout.membrane_potential, jaxsnn.readout.score or "
    "jaxsnn.readout.delayed(2)",
]


@typed
def spike_count(output: Output) -> Int[AnyArray, "*batch"]:
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
def first_spike(output: Output) -> Int[AnyArray, "*batch"]:
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
def membrane_potential(output: Output) -> Int[AnyArray, "*batch"]:
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
def score(output: Output) -> Int[AnyArray, "*batch"]:
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
    return output.scores.argmax(-1).astype(np.int32)


@dataclass(frozen=True)
class Delayed:
    """The neuron that received most after step `start`; `delayed` makes it.

    Engines hand it outputs whose `received` counts from there on. Undecided are samples before that
    step, and those whose outputs have received nothing since.
    """

    start: int

    def __call__(self, output: Output) -> Int[AnyArray, "*batch"]:
        scores = output.scores
        classes = scores.argmax(-1).astype(np.int32)
        return numbers_of(scores).where((scores != 0).any(-1), classes, np.int32(-1))


@typed
def delayed(start: Count) -> Delayed:
    """The neuron that received most after so many steps: scores, too, count from there on.

    Early steps carry an error where potentials start at 0, since layer after layer waits for its
    first spikes. Initial potentials of half the thresholds remove it, and then all steps together
    are better.

    Args:
        start: steps that do not count, at least 0.

    Raises:
        ValueError: the number is negative.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), jnp.zeros((1, 2)))
        >>> snn = jaxsnn.balance_thresholds(network, 1.0)
        >>> run = jaxsnn.simulate(snn, jnp.array([[0.0, 1.0]]), key=0, duration=0.004,
        ...                       read=jaxsnn.readout.delayed(2))
        >>> run.scores[:, 0].tolist(), run.predictions[:, 0].tolist()
        ([[0.0, 0.0], [0.0, 0.0], [0.0, 0.5], [0.0, 1.0]], [-1, -1, 1, 1])
    """
    if start < 0:
        raise ValueError(f"start={start}; it must be a number of steps, not negative.")
    return Delayed(int(start))


def start_of(read: Readout) -> int:
    """After how many steps a readout begins to count.

    Example:
        >>> from jaxsnn import readout
        >>> readout.start_of(readout.score), readout.start_of(readout.delayed(3))
        (0, 3)
    """
    return read.start if isinstance(read, Delayed) else 0


@typed
def default(spiking: bool) -> Readout:
    """The readout of a run that names none: spikes where the outputs spike, else scores.

    Example:
        >>> from jaxsnn import readout
        >>> readout.default(True) is readout.spike_count, readout.default(False) is readout.score
        (True, True)
    """
    return spike_count if spiking else score


@partial(compiled, inline=True)
def _largest(scores: Float[AnyArray, "*batch classes"]) -> Int[AnyArray, "*batch"]:
    decided = scores.max(-1) > 0
    return numbers_of(scores).where(decided, scores.argmax(-1), -1).astype(np.int32)


OF_THE_LIBRARY = (spike_count, first_spike, membrane_potential, score)


def read_steps(read: Readout, output: Output) -> np.ndarray:
    """The class after each of T steps `[T, B]`, of an output of NumPy with leaves `[T, B, ...]`.

    The readouts of this module take all steps at once; others see one step at a time, as in the
    scan: arrays that JAX traces, each step with the same thresholds.

    Example:
        >>> import numpy as np
        >>> from jaxsnn import readout
        >>> counts = np.array([[[0.0, 0.0]], [[0.0, 1.0]]], np.float32)
        >>> output = readout.Output(counts, counts, np.ones(()), np.array([[-1], [1]]))
        >>> readout.read_steps(readout.spike_count, output).tolist()
        [[-1], [1]]
    """
    if read in OF_THE_LIBRARY or isinstance(read, Delayed):
        unchecked = getattr(read, "__wrapped__", read)  # its argument is ours
        return cast(np.ndarray, unchecked(output))
    return np.asarray(_read_steps(output, read=read))


@partial(jax.jit, static_argnames="read")
def _read_steps(output: Output, *, read: Readout) -> Array:
    def at(counts: Array, potential: Array, first: Array, received: Array) -> Array:
        threshold = output.threshold.reshape(output.threshold.shape[1:])
        return read(Output(counts, potential, threshold, first, output.spiking, received))

    fields: Any = output.spike_counts, output.potential, output.first_spike_class, output.received
    return jax.vmap(at)(*fields)
