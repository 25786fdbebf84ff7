"""The loop over time for a block of points of a sweep, as one compiled program on all devices.

All points share one set of weights, since scale factors and multipliers are thresholds and
amplitudes. A point is a function of its settings, mapped with `jax.vmap` over seeds, rates and
thresholds; what does not depend on an axis is computed once for all of it: the random draws for
all rates, the input spikes and the current of the first layer for all thresholds.

The devices form a mesh with the axes "points" and "images". Each simulates its part of a batch
alone and counts in integers, whose sums do not depend on how the work was laid out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from jaxsnn.conversion.executable import Executable
from jaxsnn.engines.base import Behaviour, Counts, State, at_rest
from jaxsnn.engines.scan.loop import Chunk, Observer, sample_counts, scan_steps
from jaxsnn.engines.scan.lowering import Formats, compiled
from jaxsnn.network import Network
from jaxsnn.support.arrays import AnyArray


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Labelled:
    """Images on the devices: `images` [B, ...], `labels` [B], and which are not padding [B]."""

    images: AnyArray
    labels: AnyArray
    valid: AnyArray


@partial(jax.jit, static_argnames=("padded_steps", "behaviour", "mesh", "formats"))
def simulate_points(
    network: Executable,
    settings: dict[str, Any],
    refractory_steps: Array | None,
    factors: Array,
    keys: Array,
    images: Labelled,
    fan_outs: list[Array | None],
    steps: Array,
    *,
    padded_steps: int,
    behaviour: Behaviour,
    mesh: Mesh,
    formats: Formats,
) -> Counts:
    """Simulate S seeds, R rates and P points on B images, and count in each step.

    Args:
        network: the network of any point.
        settings: the fields of the network in which points differ, with leaves [P, ...].
        refractory_steps: refractory periods [P], or None if no point has any.
        factors: max_rate·dt [R].
        keys: the words of the key of each sample [S, B, 2].
        images: the images.
        fan_outs: for the input and each layer but the last the synapses of each neuron; None where
            all have as many.
        steps: how many steps; it is data, so that runs of several lengths share a program.
        padded_steps: the steps that there is memory for.
        behaviour: the functions that make up the simulation.
        mesh: the devices.
        formats: what computes products of integers.

    Returns:
        Counts [S, R, P, padded steps, ...]. Nothing else crosses from device to device.
    """
    count = partial(_count, padded_steps=padded_steps, behaviour=behaviour, formats=formats)

    def on_a_device(network, settings, refractory_steps, factors, keys, images, *others):
        def point(settings, refractory_steps, factor, keys):
            chosen: Any = replace(cast(Any, network), **settings)
            return count(chosen, refractory_steps, factor, keys, images, *others)

        over_points = jax.vmap(point, (0, 0, None, None))
        over_rates = jax.vmap(over_points, (None, None, 0, None))
        over_seeds = jax.vmap(over_rates, (None, None, None, 0))
        counts = over_seeds(settings, refractory_steps, factors, keys)
        counts = lax.psum(counts, "images")
        return lax.all_gather(counts, "points", axis=2, tiled=True)

    points, samples = PartitionSpec("points"), PartitionSpec("images")
    everywhere = PartitionSpec()
    of_arguments = (
        *(everywhere, points, points, everywhere),
        *(PartitionSpec(None, "images"), samples, everywhere, everywhere),
    )
    mapped = jax.shard_map(
        on_a_device, mesh=mesh, in_specs=of_arguments, out_specs=everywhere, check_vma=False
    )
    return mapped(network, settings, refractory_steps, factors, keys, images, fan_outs, steps)


def _count(
    network: Executable,
    refractory_steps: Array | None,
    factor: Array,
    keys: Array,
    images: Labelled,
    fan_outs: list[Array | None],
    steps: Array,
    *,
    padded_steps: int,
    behaviour: Behaviour,
    formats: Formats,
) -> Counts:
    """Simulate one point on B images, and count in each step [padded steps, ...]."""
    layers = compiled(network, formats)
    probabilities = (images.images * factor).astype(network.network.dtype)
    state = _start(network, len(images.labels), refractory_steps)

    def advance(index: Array, carry: tuple[State, Counts]) -> tuple[State, Counts]:
        state, counts = carry
        state, kept = scan_steps(
            layers,
            behaviour,
            probabilities,
            keys,
            factor,
            state,
            None,
            steps=1,
            chunk=1,
            observe=counter(images, fan_outs),
        )
        write = partial(lax.dynamic_update_slice_in_dim, start_index=index, axis=0)
        return state, jax.tree.map(write, counts, kept.observed)

    shapes = Counts.shapes(len(state.neurons))
    counts = Counts(*(jnp.zeros((padded_steps, *shape), jnp.int32) for shape in shapes))
    return lax.fori_loop(0, steps, advance, (state, counts))[1]


def _start(network: Executable, batch: int, refractory_steps: Array | None) -> State:
    """The state of neurons at rest, without the counts that no point needs."""
    relus: Network = network.network
    state = at_rest(
        jnp,
        network.initial_potentials,
        batch=batch,
        shapes=tuple(relus.shapes),
        input_shape=relus.input_shape,
        dtype=network.dtype,
        counting=refractory_steps is not None,
    )
    # Spikes are counted of the output, and of what max poolings read.
    counted = {len(relus.layers) - 1}
    counted |= {layer.connection.source for layer in relus.layers if layer.pools_maxima}
    counts = enumerate(state["spike_counts"])
    state["spike_counts"] = [of_layer if i in counted else None for i, of_layer in counts]
    state["input_spike_counts"] = None
    zero = jnp.zeros((), jnp.int32)
    periods = zero if refractory_steps is None else refractory_steps
    return State(**state, samples=zero, dt=zero, refractory_steps=periods, arithmetic=zero)


def counter(images: Labelled, fan_outs: list[Array | None]) -> Observer:
    """The observer that counts what happens in each step, summed over the images."""

    def total(values: Array) -> Array:
        return jnp.where(images.valid[None], values.astype(jnp.int32), 0).sum(-1, dtype=jnp.int32)

    def totals(values: list[Array]) -> Array:  # summed before they are stacked, or XLA is slower
        return jnp.stack([total(of_layer) for of_layer in values], -1)

    def observe(chunk: Chunk) -> Counts:
        predictions, of_samples = chunk.predictions, sample_counts(chunk, fan_outs)
        return Counts(
            correct=total((predictions == images.labels[None]) & (predictions >= 0)),
            undecided=total(predictions < 0),
            first=total(chunk.first),
            first_correct=total(chunk.first & (chunk.first_class == images.labels)[None]),
            spikes=totals(of_samples.spikes),
            operations=totals(of_samples.operations),
        )

    return observe
