"""The update of neurons over a chunk of time as one kernel of a TPU, in Pallas.

A block of neurons goes through all steps of the chunk with its potentials in registers: a step
reads currents and writes spikes, and nothing else. XLA makes about ten kernels of the same update
on a TPU, and two on a GPU, for which this one is not meant.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.typing import ArrayLike
from jaxtyping import Array, Shaped

from jaxsnn import neurons

# Samples and neurons of a block: whole registers of a TPU (8 by 128 numbers), half of its 64.
_BLOCK = (256, 128)
# Numbers of currents that a block holds; twice that, and as many spikes, have to fit into 16 MiB.
_NUMBERS_PER_BLOCK = 1 << 19


@partial(jax.jit, static_argnames=("reset", "interpret"))
def fused_update(
    potential: Shaped[Array, "batch n"],
    currents: Shaped[Array, "steps batch n"],
    threshold: ArrayLike,
    *,
    reset: neurons.Reset,
    interpret: bool = False,
) -> tuple[Shaped[Array, "batch n"], Shaped[Array, "steps batch n"]]:
    """All steps of a chunk for a layer of neurons, without a refractory period.

        for k = 1 … K:    V ← V + currents[k]    spikes[k] = V ≥ θ    V ← reset(V, spikes[k], θ)

    It is `jaxsnn.integrate_and_fire` K times, bit for bit, and has no gradient.

    Args:
        potential: V before the first step `[B, n]`, of float32 or int32.
        currents: weighted sums of the input spikes of each step `[K, B, n]`.
        threshold: θ, broadcasting to `[n]`.
        reset: `reset_to_zero`, `reset_by_subtraction`, or another function of single neurons.
        interpret: whether to run it as ordinary JAX, on any device and slowly.

    Returns:
        V after the last step `[B, n]`, and the spikes of all steps `[K, B, n]`, 0 or 1, both in the
        type of the potentials.

    Example:
        >>> import jax.numpy as jnp, jaxsnn
        >>> from jaxsnn.pallas_update import fused_update
        >>> potential, spikes = fused_update(
        ...     jnp.zeros((1, 2)), jnp.full((3, 1, 2), 0.75), jnp.ones(()),
        ...     reset=jaxsnn.reset_by_subtraction, interpret=True)
        >>> potential.tolist(), spikes[:, 0, 0].tolist()
        ([[0.25, 0.25]], [0.0, 1.0, 1.0])
    """
    steps, batch, n = currents.shape
    rows = _rows(steps, batch)
    columns = min(_BLOCK[1], n)
    one_step = pl.BlockSpec((rows, columns), lambda i, j: (i, j))
    all_steps = pl.BlockSpec((steps, rows, columns), lambda i, j: (0, i, j))
    thresholds = jnp.broadcast_to(jnp.asarray(threshold, potential.dtype), (1, n))
    after, spikes = pl.pallas_call(
        partial(_kernel, reset, steps),
        out_shape=(potential, jax.ShapeDtypeStruct(currents.shape, potential.dtype)),
        grid=(pl.cdiv(batch, rows), pl.cdiv(n, columns)),
        in_specs=[one_step, all_steps, pl.BlockSpec((1, columns), lambda i, j: (0, j))],
        out_specs=(one_step, all_steps),
        interpret=interpret,
        name="fused_update",
    )(potential, currents, thresholds)
    return after, spikes


def _rows(steps: int, batch: int) -> int:
    """How many samples a block has: a multiple of 8, or all."""
    fitting = _NUMBERS_PER_BLOCK // (steps * _BLOCK[1]) // 8 * 8
    rows = min(_BLOCK[0], max(fitting, 8))
    return batch if batch <= rows else rows


def _kernel(
    reset: neurons.Reset,
    steps: int,
    potential: Any,
    currents: Any,
    threshold: Any,
    after: Any,
    spikes: Any,
) -> None:
    """One block of samples and neurons, all steps."""
    v, theta = potential[...], threshold[...]
    for step in range(steps):
        v = v + currents[step]
        fired = (v >= theta).astype(v.dtype)
        spikes[step] = fired
        v = reset(v, fired, theta)
    after[...] = v
