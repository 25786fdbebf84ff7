"""The loop over time: integrate-and-fire layers for a batch, chunk by chunk.

There is no feedback, so a layer can be carried through all steps of a chunk before the next one
begins: its currents are one product, for which its weights are read once, and its neurons then go
through the steps one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxsnn import encoding, neurons, readout
from jaxsnn.conversion.rounding import NUMBER_BITS
from jaxsnn.engines.base import Behaviour, State, Step, output_seen
from jaxsnn.engines.scan.lowering import Compiled
from jaxsnn.network import INPUT
from jaxsnn.stopping import Stop


class Chunk(NamedTuple):
    """What happened in K steps, for an observer of the loop.

    ===========  ============  ===================================================================
    field        shape         meaning
    ===========  ============  ===================================================================
    inputs       [K, B, ...]   input of the first layer: spikes, or a current
    spikes       layers        spikes of each layer `[K, B, ...]`
    potentials   layers        membrane potentials after the reset `[K, B, ...]`, in the units of
                               the thresholds
    predictions  [K, B]        class read out after each step, or -1
    first        [K, B]        whether the sample's first output spike is in this step
    first_class  [B]           class of the first output spike so far, or -1
    ===========  ============  ===================================================================
    """

    inputs: Array
    spikes: list[Array]
    potentials: list[Array]
    predictions: Array
    first: Array
    first_class: Array


# What is kept of a chunk, with leaves [K, ...].
Observer = Callable[[Chunk], Any]


def nothing(chunk: Chunk) -> None:
    """The observer that keeps nothing."""
    del chunk


def recorder(record: Callable[[Step], Any] | None) -> Observer:
    """The observer that keeps what a function of a `Step` returns."""
    if record is None:
        return nothing

    def observe(chunk: Chunk) -> Any:
        fields = chunk.inputs, chunk.spikes, chunk.potentials, chunk.predictions
        return jax.vmap(lambda *of_step: record(Step(*of_step)))(*fields)

    return observe


class SampleCounts(NamedTuple):
    """Spikes of the input and of each layer, and synaptic operations, each `[K, B]`.

    The operations are those of sources whose neurons have not all the same fan-out: multiples of
    65,536, and the rest.
    """

    spikes: list[Array]
    operations: list[Array]


def sample_counts(chunk: Chunk, fan_outs: Sequence[Array | None]) -> SampleCounts:
    """What each sample does in each step of a chunk: an observer, once the fan-outs are given.

    Args:
        chunk: the steps.
        fan_outs: for the input and each layer but the last the synapses of each neuron; None where
            all have as many.
    """
    senders = [chunk.inputs, *chunk.spikes]
    none = jnp.zeros(chunk.predictions.shape, jnp.int32)
    halves = [
        jnp.divmod(_per_sample(jnp.where(sent != 0, fan_out[None, None], 0)), 1 << 16)
        for sent, fan_out in zip(senders, fan_outs)
        if fan_out is not None
    ]
    high = sum((half.astype(jnp.int32) for half, _ in halves), none)
    low = sum((half.astype(jnp.int32) for _, half in halves), none)
    spikes = [_per_sample((sent != 0).astype(jnp.int32)) for sent in senders]
    return SampleCounts(spikes, [high + (low >> 16), low & 0xFFFF])


def _per_sample(values: Array) -> Array:
    """Sums of values [K, B, ...] over all but the first two axes."""
    return values.sum(range(2, values.ndim), dtype=values.dtype)


class Kept(NamedTuple):
    """What is kept of T steps: `predictions` [T, B], `scores` [T, B, classes], and observations."""

    predictions: Array
    scores: Array
    observed: Any


def scan_steps(
    layers: Compiled,
    behaviour: Behaviour,
    probabilities: Array,
    keys: Array,
    rate: ArrayLike,
    state: State,
    stop: Stop | None,
    *,
    steps: int,
    chunk: int,
    observe: Observer,
    remat: bool = False,
    unrolled: bool = False,
) -> tuple[State, Kept]:
    """The next steps of a batch.

    Args:
        layers: the compiled network.
        behaviour: the functions that make up the simulation.
        probabilities: pixel·max_rate·dt of each input `[B, ...]`.
        keys: the words of the key of each sample `[B, 2]`.
        rate: max_rate·dt, by which biases are multiplied.
        state: the state to resume from; counts of spikes that are None are not kept.
        stop: when a sample is decided, by `stopping.as_argument`.
        steps: how many steps.
        chunk: how many of them a layer goes through at a time.
        observe: what to keep of each chunk; only it sees more than the state.
        remat: whether gradients compute each chunk again.
        unrolled: whether chunks are straight code and no loop. On CPUs, XLA computes the gradients
            of kernels 50 times as slowly in a loop, be it one of a single chunk.

    Returns:
        The new state, and what is kept of every step.
    """
    # An input that is the same in all steps has one current.
    same = ignores_key(behaviour.encode, probabilities.shape[1:])
    drive = _drive(layers, behaviour, keys, probabilities, state.step, 1) if same else None

    gain = jnp.asarray(rate, probabilities.dtype)

    def advance(length: int, state: State, _: None) -> tuple[State, Kept]:
        driven = drive or _drive(layers, behaviour, keys, probabilities, state.step, length)
        return _advance(layers, behaviour, stop, driven, gain, state, length, observe)

    compute = partial(jax.checkpoint, static_argnums=0)(advance) if remat else advance
    whole, rest = divmod(steps, chunk)
    outputs, left = [], [chunk] * whole + [rest] * (rest > 0)
    if whole > 1 and not unrolled:
        state, output = lax.scan(partial(compute, chunk), state, None, length=whole)
        outputs.append(jax.tree.map(lambda x: x.reshape(whole * chunk, *x.shape[2:]), output))
        left = left[whole:]
    for length in left:
        state, output = compute(length, state, None)
        outputs.append(output)
    return state, joined(outputs)


def joined(outputs: Sequence[Any]) -> Any:
    """What was kept of consecutive steps, with leaves [T, ...], as one."""
    if len(outputs) == 1:
        return outputs[0]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outputs)


class _Drive(NamedTuple):
    """Inputs of the steps of a chunk [K, B, ...], and the currents that they cause.

    The currents are of each layer the sum over its connections from the input, or None.
    """

    inputs: Array
    currents: list[Array | None]


def _drive(
    layers: Compiled,
    behaviour: Behaviour,
    keys: Array,
    probabilities: Array,
    first: Array,
    length: int,
) -> _Drive:
    keys = jax.random.wrap_key_data(keys, impl="threefry2x32")

    integers = jnp.issubdtype(layers.dtype, jnp.integer)
    numbers = behaviour.encode is encoding.constant
    # Only of the library's own encoding it is known that it gives spikes.
    spikes = behaviour.encode is encoding.poisson or (integers and not numbers)

    def at(step: Array) -> Array:
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        found = jax.vmap(behaviour.encode)(step_keys, probabilities)
        if not numbers:
            return found.astype(layers.dtype)
        if integers:  # what rounds to 0 is not sent
            return jnp.where(jnp.rint(found * (1 << NUMBER_BITS)) == 0, 0, found)
        return found

    inputs = jax.vmap(at)(first + jnp.arange(length, dtype=first.dtype))
    connections = layers.connections if spikes else layers.from_numbers
    return _Drive(inputs, [_received(layer, {INPUT: inputs}) for layer in connections])


def _received(
    connections: Sequence[tuple[int, Callable[[Array], Array]]], sent: dict[int, Array]
) -> Array | None:
    """The currents of a layer [K, B, ...] that those sources cause that are given."""
    parts = [_at_once(current, sent[source]) for source, current in connections if source in sent]
    return reduce(jnp.add, parts) if parts else None


def _at_once(current: Callable[[Array], Array], spikes: Array) -> Array:
    """The currents of all steps [K, B, ...] as one product."""
    flat = current(spikes.reshape(-1, *spikes.shape[2:]))
    return flat.reshape(*spikes.shape[:2], *flat.shape[1:])


def _advance(
    layers: Compiled,
    behaviour: Behaviour,
    stop: Stop | None,
    drive: _Drive,
    gain: Array,
    state: State,
    length: int,
    observe: Observer,
) -> tuple[State, Kept]:
    """One chunk of time: the layers one after the other, each through all steps."""
    sent: dict[int, Array] = {}
    spikes, potentials, new_neurons = [], [], []
    totals: Any = None
    for index in range(len(state.neurons)):
        keep = index + 1 == len(state.neurons) or observe is not nothing
        new, sent[index], fired, potential, totals = _through_layer(
            layers, behaviour, drive, gain, state, length, keep, sent, spikes
        )
        new_neurons.append(new)
        spikes.append(fired)
        potentials.append(potential)
    ends = state.step + 1 + jnp.arange(length, dtype=state.step.dtype)
    totals = _received_since(readout.start_of(behaviour.read), ends, totals)
    after, (predictions, scores), active, first = _read(
        layers, behaviour, stop, state, ends, spikes[-1], potentials[-1], totals
    )
    inputs = drive.inputs
    if len(inputs) < length:
        inputs = jnp.broadcast_to(inputs, (length, *inputs.shape[1:]))
    driven = (inputs != 0).astype(layers.dtype)
    after = replace(
        after,
        neurons=new_neurons,
        received=_at_exit(totals, state.received, active),
        input_spike_counts=_counted(state.input_spike_counts, driven, active),
        spike_counts=[
            _counted(old, new, active) for old, new in zip(state.spike_counts, spikes, strict=True)
        ],
    )
    if observe is nothing:
        return after, Kept(predictions, scores, None)
    potentials = [layers.in_units(index, value) for index, value in enumerate(potentials)]
    seen = Chunk(inputs, spikes, potentials, predictions, first, after.first_spike_class)
    return after, Kept(predictions, scores, observe(seen))


def _through_layer(
    layers: Compiled,
    behaviour: Behaviour,
    drive: _Drive,
    gain: Array,
    state: State,
    length: int,
    keep: bool,
    sent: dict[int, Array],
    spikes: list[Array],
) -> tuple[neurons.NeuronState, Array, Array, Any, Any]:
    """One layer through all steps of a chunk, after those before it.

    Returns:
        Its state; what it sends, its spikes, and its potentials where they are kept [K, B, ...];
        and for the last layer what it has received after each step.
    """
    index, last = len(spikes), len(state.neurons) - 1
    old, totals = state.neurons[index], None
    if (pool := layers.pooling[index]) is not None:
        (source, _), *_ = layers.connections[index]
        pooled = _pooled(pool, state.spike_counts[source], spikes[source])
        if index == last:  # a spike of an output stands for its threshold
            so_far: Any = state.received
            totals = so_far + layers.thresholds[index] * pooled.cumsum(0, dtype=pooled.dtype)
        return old, pooled, pooled, jnp.zeros_like(pooled), totals
    parts = drive.currents[index], _received(layers.connections[index], sent)
    currents = reduce(jnp.add, (part for part in parts if part is not None))
    if not layers.spiking[index] and index < last:  # a sum, whose value lives for one step
        values = jnp.broadcast_to(currents, (length, *currents.shape[1:]))
        return old, currents, jnp.zeros_like(values), values, totals
    if (bias := layers.bias(index, gain)) is not None:
        currents = currents + bias
    functions = behaviour if layers.spiking[index] else behaviour._replace(**_ACCUMULATES)
    fire = partial(_fire, layers.thresholds[index], functions, state.refractory_steps, keep)
    start = old, state.received if index == last else None
    (new, _), (fired, potential, totals) = _through(fire, start, currents, length)
    return new, fired, fired, potential, totals


def _received_since(start: int, ends: Array, received: Array) -> Array:
    """What outputs have received after step `start`, and 0 until then `[K, B, classes]`.

    Args:
        start: as of `readout.delayed`; from 0 on, all that is received counts.
        ends: the numbers of K steps, from 1 on.
        received: in all, and started with; or after `start`, where that is before these steps.
    """
    if not start:
        return received
    place = start - ends[0]  # of the last step that does not count
    before = received[jnp.clip(place, 0, len(received) - 1)][None]
    counted = received - jnp.where(place >= 0, before, 0)
    return jnp.where((ends > start)[:, None, None], counted, 0)


def _at_exit(values: Array, before: Any, active: Array | None) -> Array:
    """The values [K, B, ...] of the last step in which a sample was running, or those before."""
    if active is None:
        return values[-1]
    steps = active.sum(0)[:, None]
    last = jnp.take_along_axis(values, jnp.maximum(steps - 1, 0)[None], 0)[0]
    return jnp.where(steps > 0, last, before)


def _pooled(pool: Callable[[Array], Array], so_far: Array, spikes: Array) -> Array:
    """Spikes of a max pooling [K, B, ...]: one where the largest number of spikes grows."""
    counts = so_far[None] + (spikes if len(spikes) == 1 else spikes.cumsum(0, dtype=spikes.dtype))
    before = jnp.concatenate([so_far[None], counts[:-1]])
    return _at_once(pool, counts) - _at_once(pool, before)


# The functions of outputs that accumulate what they receive, and never spike.
_ACCUMULATES: dict[str, Any] = {
    "spike": lambda potential, threshold: jnp.zeros_like(potential),
    "reset": lambda potential, spikes, threshold: potential,
}


def _through(
    step: Callable[[Any, Any], tuple[Any, Any]], start: Any, given: Any, length: int
) -> tuple[Any, Any]:
    """A scan over the steps of a chunk; what is given for one step only is that of all.

    Accelerators get the steps as straight code, so that XLA can fuse them and keep potentials in
    registers; a CPU keeps them in its caches anyhow.
    """
    one = jax.tree.map(lambda x: x[0], given)
    if length == 1:
        state, output = step(start, one)
        return state, jax.tree.map(lambda x: x[None], output)
    if all(len(leaf) == 1 for leaf in jax.tree.leaves(given)):
        return lax.scan(lambda state, _: step(state, one), start, None, length=length)
    unroll = 1 if jax.default_backend() == "cpu" else length
    return lax.scan(step, start, given, unroll=unroll)


def _fire(
    threshold: Array,
    behaviour: Behaviour,
    refractory_steps: Array,
    keep: bool,
    carry: tuple[neurons.NeuronState, Array | None],
    current: Array,
) -> tuple[tuple[neurons.NeuronState, Array | None], tuple[Array, Array | None, Array | None]]:
    """One step of a layer; the potentials are returned where they are looked at.

    What neurons have received in all is added up where it is given.
    """
    state, received = carry
    if received is not None:
        ready = True if state.refractory is None else state.refractory == 0
        received = received + jnp.where(ready, current, 0)
    state, spikes = neurons.integrate_and_fire(
        state,
        current,
        threshold,
        reset=behaviour.reset,
        spike=behaviour.spike,
        refractory_steps=refractory_steps,
    )
    return (state, received), (spikes, state.potential if keep else None, received)


def _read(
    layers: Compiled,
    behaviour: Behaviour,
    stop: Stop | None,
    state: State,
    ends: Array,
    spikes: Array,
    potentials: Array,
    received: Array,
) -> tuple[State, tuple[Array, Array], Array | None, Array]:
    """Predictions and scores of a chunk, which samples are running, whose first spike is when."""
    counts = state.spike_counts[-1][None] + spikes.cumsum(0, dtype=spikes.dtype)
    fired = (spikes > 0).any(-1)
    now = fired.argmax(0)  # the first step of the chunk with an output spike, if there is one
    first = jnp.take_along_axis(spikes, now[None, :, None], 0)[0].argmax(-1).astype(jnp.int32)
    new = (state.first_spike_class < 0) & fired.any(0)

    def seen(end: Array, counts: Array, potential: Array, received: Array) -> Any:
        known = jnp.where(new & (ends[now] <= end), first, state.first_spike_class)
        return output_seen(
            counts,
            potential,
            received,
            layers.thresholds[-1],
            layers.step_sizes[-1],
            known,
            layers.spiking[-1],
        )

    outputs = jax.vmap(seen)(ends, counts, potentials, received)
    active = None
    if stop is not None:
        running = state.exit_step == 0
        decided = jax.vmap(stop)(outputs, ends) & running[None]
        exits = jnp.where(decided.any(0), ends[decided.argmax(0)], state.exit_step)
        active = running[None] & ((exits == 0)[None] | (ends[:, None] <= exits[None]))
        new = new & jnp.take_along_axis(active, now[None], 0)[0]
        state = replace(state, exit_step=exits.astype(jnp.int32))
    state = replace(
        state,
        step=state.step + len(spikes),
        first_spike_class=jnp.where(new, first, state.first_spike_class),
        first_spike_step=jnp.where(new, ends[now], state.first_spike_step).astype(jnp.int32),
    )
    in_step = new[None] & (jnp.arange(len(spikes), dtype=now.dtype)[:, None] == now[None])
    said = jax.vmap(behaviour.read)(outputs), jax.vmap(lambda output: output.scores)(outputs)
    return state, said, active, in_step


def _counted(so_far: Array | None, spikes: Array, active: Array | None) -> Array | None:
    """The counts with the spikes [K, B, ...] of all steps, but those after a sample's exit."""
    if so_far is None:
        return None
    if active is not None:
        spikes = jnp.where(active.reshape(*active.shape, *[1] * (spikes.ndim - 2)), spikes, 0)
    return so_far + reduce(jnp.add, list(spikes))  # on CPUs many times faster than a sum


@lru_cache
def ignores_key(encode: encoding.Encoding, shape: tuple[int, ...]) -> bool:
    """Whether an encoding draws nothing, so that its input is the same in all steps."""
    traced = jax.make_jaxpr(encode)(
        jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    ).jaxpr
    used = [*traced.outvars, *(var for equation in traced.eqns for var in equation.invars)]
    return all(var is not traced.invars[0] for var in used)
