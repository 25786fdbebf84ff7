"""When a sample needs no more steps: one function from the output layer so far to a decision.

A stop rule gets what readouts get, the output layer after a step, and the number of steps done, and
says for each sample whether it is decided. `simulate(..., stop=rule)` then ends that sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Int

from jaxsnn.readout import Output
from jaxsnn.support.arrays import all_true, is_known
from jaxsnn.support.typed import Scalar, Values, typed

Stop = Annotated[
    Callable[[Output, Array], Array],
    "a function (output, steps) → decided, such as jaxsnn.stopping.first_spike or "
    "jaxsnn.stopping.margin(3)",
]


@typed
def first_spike(output: Output, steps: Values) -> Bool[Array, " batch"]:
    """As soon as an output neuron has spiked (Diehl et al. 2015).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn import readout, stopping
        >>> counts = jnp.array([[1.0, 0.0], [0.0, 0.0]])
        >>> output = readout.Output(counts, counts, jnp.ones(()), jnp.array([0, -1]))
        >>> stopping.first_spike(output, jnp.array(3)).tolist()
        [True, False]
    """
    del steps
    return output.first_spike_class >= 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Margin:
    """As soon as the leading output neuron has so many spikes more than the second.

    With `every`, the lead that is asked for falls by one after each so many steps, down to one
    spike: who waits for long is content with less. `margin` and `margin_over_time` make it; one
    compiled program computes all numbers. Where outputs do not spike, it compares their scores.

    Attributes:
        spikes: the lead at the start; one below 1 counts as 1.
        every: steps after which it falls by one; 0 if it never does.
    """

    spikes: Any
    every: Any = 0

    def __call__(self, output: Output, steps: Int[Array, ""]) -> Bool[Array, " batch"]:
        reached = output.spike_counts if output.spiking else output.scores
        two, _ = lax.top_k(reached, min(2, reached.shape[1]))
        lead = two[:, 0] - (two[:, 1] if two.shape[1] > 1 else 0)
        waited = jnp.where(self.every > 0, steps // jnp.maximum(self.every, 1), 0)
        return lead >= jnp.maximum(self.spikes - waited, 1).astype(lead.dtype)


@typed
def margin(spikes: Scalar) -> Margin:
    """As soon as the leading output neuron has so many spikes more than the second.

    Args:
        spikes: the lead, at least 1.

    Raises:
        ValueError: no lead.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn import readout, stopping
        >>> counts = jnp.array([[3.0, 1.0], [2.0, 1.0]])
        >>> output = readout.Output(counts, counts, jnp.ones(()), jnp.array([0, 0]))
        >>> stopping.margin(2)(output, jnp.array(9)).tolist()
        [True, False]
    """
    if not all_true(lambda lead: (lead >= 1) & (lead < np.inf), spikes):
        raise ValueError(f"a margin of {spikes} spikes; it must be at least 1 spike.")
    return Margin(_whole(spikes))


@typed
def margin_over_time(spikes: Scalar, every: Scalar) -> Margin:
    """As `margin`, with a lead that falls by one after each `every` steps, down to one spike.

    Args:
        spikes: the lead at the start, at least 1.
        every: steps after which it falls by one, at least 1.

    Raises:
        ValueError: no lead, or no steps.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn import readout, stopping
        >>> counts = jnp.array([[3.0, 1.0], [2.0, 1.0]])
        >>> output = readout.Output(counts, counts, jnp.ones(()), jnp.array([0, 0]))
        >>> rule = stopping.margin_over_time(3, every=10)
        >>> [rule(output, jnp.array(steps)).tolist() for steps in (9, 10, 20)]
        [[False, False], [True, False], [True, True]]
    """
    if not all_true(lambda steps: (steps >= 1) & (steps < np.inf), every):
        raise ValueError(f"every={every}; the lead falls after at least 1 step.")
    return Margin(margin(spikes).spikes, _whole(every))


@typed
def check_margin(spikes: Scalar, every: Scalar) -> None:
    """Raise TypeError or ValueError where the fields of a `Margin` made by hand are no numbers.

    Example:
        >>> from jaxsnn import stopping
        >>> stopping.check_margin(float("nan"), 0)
        Traceback (most recent call last):
        ...
        ValueError: Margin: spikes=nan; it must be a number of at least 0.
    """
    for name, value in (("spikes", spikes), ("every", every)):
        if not all_true(lambda number: (number >= 0) & (number < np.inf), value):
            raise ValueError(f"Margin: {name}={value}; it must be a number of at least 0.")


def _whole(number: Any) -> Any:
    """A number as an integer of Python, which share a compiled program, unless it is traced."""
    return ceil(number) if is_known(number) else number


def as_argument(rule: Stop | None) -> Any:
    """A rule as an argument of a compiled function: numbers are traced, functions are constants.

    Example:
        >>> import jax
        >>> from jaxsnn import stopping
        >>> [jax.tree.leaves(stopping.as_argument(rule)) for rule in
        ...  (stopping.margin(3), stopping.first_spike)]
        [[3, 0], []]
    """
    return rule if rule is None or type(rule) in (Margin, Partial) else Partial(rule)
