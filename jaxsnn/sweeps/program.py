"""The one compiled program of a sweep: a piece of images at a block of points, on all devices.

All points share one set of weights, since scale factors and multipliers are thresholds and
amplitudes. A point is a function of its settings, mapped with `jax.vmap` over seeds, rates and
thresholds; what does not depend on an axis is computed once for all of it: the random draws for
all rates, the input spikes and the current of the first layer for all thresholds.

The devices form a mesh with the axes "points" and "images". Each simulates its part of a piece
alone and counts in integers, whose sums do not depend on how the work was laid out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxsnn import encoding, metrics, neurons, readout, scan
from jaxsnn.checks import in_steps
from jaxsnn.draws import sample_keys
from jaxsnn.network import AnyArray, Shape
from jaxsnn.sweeps.counts import Counts, tails, uniform
from jaxsnn.sweeps.job import Job, Points, at_point
from jaxsnn.sweeps.plan import Block, Plan, room, rounded_up
from jaxsnn.synapses import AnyNetwork, Synapses, Units, chosen_units
from jaxsnn.synapses import synapses as synapses_of


class _Rules(NamedTuple):
    """The functions that make up a simulation; they are part of the compiled program."""

    encode: encoding.Encoding
    reset: neurons.Reset
    read: readout.Readout


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Images:
    """Images on the devices: `images` [B, ...], `labels` [B], and which are not filled up [B]."""

    images: AnyArray
    labels: AnyArray
    valid: AnyArray


def piece_runner(
    job: Job, points: Points, plan: Plan, mesh: Mesh
) -> Callable[[Block, slice], Counts]:
    """A function that simulates the points of a block on some images, and counts."""
    grid, place = job.grid, partial(_place, mesh)
    network = jax.tree.map(lambda leaf: place(np.asarray(leaf)), points.network)
    units = chosen_units(points.network)
    pixels, dtype = job.images, job.images.dtype
    if job.arithmetic is not None:  # the product with a rate must be the same everywhere
        pixels, dtype = pixels.astype(np.float32), np.dtype(np.float32)
    synapses = [
        None if uniform(found) is not None else place(_as_weights(np.asarray(found)))
        for found in metrics.fan_out(points.network.network)
    ]
    numbers = np.arange(len(job.images))
    keys = np.stack([np.asarray(sample_keys(seed, numbers)) for seed in grid.values("seed")])
    size = plan._replace(
        points=rounded_up(plan.points, mesh.shape["points"]),
        images=rounded_up(plan.images, mesh.shape["images"]),
    )

    def run(block: Block, piece: slice) -> Counts:
        dt = grid.values("dt")[block.dt]
        seeds, rates, chosen, samples = (
            np.minimum(np.arange(cut.start, cut.start + length), cut.stop - 1)
            for cut, length in zip((*block[2:], piece), size, strict=True)
        )
        images = _Images(
            place(pixels[samples], "images"),
            place(job.labels[samples], "images"),
            place(np.arange(size.images) < piece.stop - piece.start, "images"),
        )
        factors = np.asarray(grid.values("max_rate"))[rates] * dt
        if job.arithmetic is not None:  # as in `simulate`
            factors = np.asarray(grid.values("max_rate"), np.float32)[rates] * np.float32(dt)
        counts = _run_piece(
            network,
            [place(values[chosen], "points") for values in points.thresholds],
            [place(values[chosen], "points") for values in points.amplitudes],
            _refractory_steps(job, points.refractory_periods[chosen], dt, place),
            place(factors.astype(dtype)),
            place(keys[np.ix_(seeds, samples)], None, "images"),
            images,
            synapses,
            place(np.array(grid.steps(dt), np.int32)),
            room=room(job),
            rules=_Rules(job.encode, grid.values("reset")[block.reset], job.read),
            mesh=mesh,
            units=units,
        )
        kept = *(slice(cut.stop - cut.start) for cut in block[2:]), slice(grid.steps(dt))
        return Counts(*(np.asarray(array)[kept].astype(np.int64) for array in counts))

    return run


@partial(jax.jit, static_argnames=("room", "rules", "mesh", "units"))
def _run_piece(
    network: AnyNetwork,
    thresholds: list[Array],
    amplitudes: list[Array],
    refractory_steps: Array | None,
    factors: Array,
    keys: Array,
    images: _Images,
    synapses: list[Array | None],
    steps: Array,
    *,
    room: int,
    rules: _Rules,
    mesh: Mesh,
    units: Units,
) -> Counts:
    """Counts [seeds, rates, points, room, ...] of the points of a block on the images of a piece.

    Nothing but the counts crosses from device to device.
    """

    def on_a_device(network, thresholds, amplitudes, refractory, factors, keys, images, *others):
        def point(thresholds, amplitudes, refractory, factor, keys):
            layers = synapses_of(at_point(network, thresholds, amplitudes), units)
            keys = jax.random.wrap_key_data(keys, impl="threefry2x32")
            shapes = network.network.shapes
            options = {"room": room, "rules": rules}
            return _count(layers, shapes, refractory, factor, keys, images, *others, **options)

        over_points = jax.vmap(point, (0, 0, 0, None, None))
        over_rates = jax.vmap(over_points, (None, None, None, 0, None))
        over_seeds = jax.vmap(over_rates, (None, None, None, None, 0))
        counts = over_seeds(thresholds, amplitudes, refractory, factors, keys)
        counts = lax.psum(counts, "images")
        return lax.all_gather(counts, "points", axis=2, tiled=True)

    points, samples = PartitionSpec("points"), PartitionSpec("images")
    everywhere = PartitionSpec()
    of_arguments = (
        *(everywhere, points, points, points, everywhere),
        *(PartitionSpec(None, "images"), samples, everywhere, everywhere),
    )
    mapped = jax.shard_map(
        on_a_device, mesh=mesh, in_specs=of_arguments, out_specs=everywhere, check_vma=False
    )
    return mapped(
        network, thresholds, amplitudes, refractory_steps, factors, keys, images, synapses, steps
    )


def _count(
    layers: Synapses,
    shapes: list[Shape],
    refractory_steps: Array | None,
    factor: Array,
    keys: Array,
    images: _Images,
    synapses: list[Array | None],
    steps: Array,
    *,
    room: int,
    rules: _Rules,
) -> Counts:
    """Simulate one point on B images, and count in each step [room, ...]."""
    batch, zero = len(images.labels), jnp.zeros((), layers.dtype)
    integers = jnp.issubdtype(layers.dtype, jnp.integer)
    probabilities = (images.images * factor).astype(jnp.float32 if integers else layers.dtype)
    counting = refractory_steps is not None
    states = [neurons.initial_state((batch, *shape), zero, counting) for shape in shapes]
    fire = partial(
        neurons.integrate_and_fire,
        reset=rules.reset,
        spike=neurons.heaviside,
        refractory_steps=refractory_steps if counting else 0,
    )

    def one_step(step: Array, carry: Any) -> Any:
        states, output_counts, known, counts = carry
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        inputs = jax.vmap(rules.encode)(step_keys, probabilities).astype(layers.dtype)
        states, spikes = scan.propagate(layers, states, inputs, fire)
        output_counts = output_counts + spikes[-1]
        first, known = scan.first_spikes(known, spikes[-1])
        threshold, unit = layers.thresholds[-1], layers.units[-1]
        prediction = rules.read(
            scan.output_seen(output_counts, states[-1].potential, threshold, unit, known)
        )
        now = _counts_now(images, prediction, first, known, [inputs, *spikes], synapses)
        counts = jax.tree.map(lambda kept, new: kept.at[step].set(new), counts, now)
        return states, output_counts, known, counts

    nothing = Counts(*(jnp.zeros((room, *shape), jnp.int32) for shape in tails(len(shapes))))
    none_known = jnp.full(batch, -1, jnp.int32)
    start = states, jnp.zeros_like(states[-1].potential), none_known, nothing
    return lax.fori_loop(0, steps, one_step, start)[-1]


def _counts_now(
    images: _Images,
    prediction: Array,
    first: Array,
    first_class: Array,
    senders: list[Array],
    synapses: list[Array | None],
) -> Counts:
    """The counts of one step; `senders` are the input and the spikes of all layers."""
    valid = images.valid

    def total(values: Array) -> Array:
        return jnp.where(valid, values, 0).sum(0, dtype=jnp.int32)

    per_image = [_per_image((sent != 0).astype(jnp.int32)) for sent in senders]
    halves = [
        jnp.divmod(_per_image((sent != 0) * weights), 1 << 16)
        for sent, weights in zip(senders, synapses)
        if weights is not None
    ]
    none = jnp.zeros(len(valid), jnp.int32)
    high = sum((half.astype(jnp.int32) for half, _ in halves), none)
    low = sum((half.astype(jnp.int32) for _, half in halves), none)
    return Counts(
        right=total((prediction == images.labels) & (prediction >= 0)),
        undecided=total(prediction < 0),
        first=total(first),
        first_right=total(first & (first_class == images.labels)),
        spikes=jnp.stack([total(counts) for counts in per_image]),
        operations=jnp.stack([total(high + (low >> 16)), total(low & 0xFFFF)]),
    )


def _per_image(values: Array) -> Array:
    return values.sum(range(1, values.ndim), dtype=values.dtype)


def _as_weights(synapses: np.ndarray) -> np.ndarray:
    """Numbers of synapses as integers, whose sums are exact, if no sum can overflow."""
    small = synapses.sum(dtype=np.float64) < 1 << 31
    return synapses.astype(np.int32 if small else np.float32)


def _place(mesh: Mesh, array: np.ndarray, *axes: str | None) -> Array:
    """The array on the devices of all processes, cut along axes of the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _refractory_steps(
    job: Job, periods: np.ndarray, dt: float, place: Callable[..., Array]
) -> Array | None:
    if not job.counts_refractory_steps:
        return None
    steps = [in_steps(period, dt) for period in periods]
    return place(np.array(steps, np.int32), "points")
