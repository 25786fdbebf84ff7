"""The scan: a compiled loop over chunks of time of integrate-and-fire layers, for a batch.

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
from jaxtyping import Array, PyTree

from jaxsnn import encoding, neurons, readout
from jaxsnn.network import AnyArray
from jaxsnn.pallas_update import fused_update
from jaxsnn.state import Rules, State, Step
from jaxsnn.stopping import Stop
from jaxsnn.synapses import AnyNetwork, Synapses, Units, synapses

# Programs of so many sets of functions are kept: a new `record=lambda ...` in each call makes a new
# program each time, of several megabytes.
_PROGRAMS = 16


def scan_steps(
    network: AnyNetwork,
    probabilities: AnyArray,
    keys: AnyArray,
    state: State,
    stop: Stop | None = None,
    *,
    steps: int,
    chunk: int,
    rules: Rules,
    units: Units,
) -> tuple[State, tuple[Array, PyTree]]:
    """The next steps of a part of the batch.

    Args:
        network: the spiking network.
        probabilities: pixel·max_rate·dt of each input `[B, ...]`.
        keys: the words of the key of each sample `[B, 2]`.
        state: the state to resume from.
        stop: when a sample is decided, by `stopping.as_argument`.
        steps: how many steps.
        chunk: how many of them a layer goes through at a time.
        rules: the functions that make up the simulation.
        units: what computes products of integers.

    Returns:
        The new state, and of every step the predictions `[T, B]` and records `[T, B, ...]`.
    """
    compiled = program(rules)
    return compiled(
        network, probabilities, keys, state, stop, steps=steps, chunk=chunk, units=units
    )


@lru_cache(maxsize=_PROGRAMS)
def program(rules: Rules) -> Any:
    """`scan_steps` for one set of functions, as a function that JAX compiles."""

    @partial(jax.jit, static_argnames=("steps", "chunk", "units"))
    def scan_steps(network, probabilities, keys, state, stop, *, steps, chunk, units):
        return _scan(network, probabilities, keys, state, stop, steps, chunk, rules, units)

    return scan_steps


def _scan(
    network: AnyNetwork,
    probabilities: Array,
    keys: Array,
    state: State,
    stop: Stop | None,
    steps: int,
    chunk: int,
    rules: Rules,
    units: Units,
) -> tuple[State, tuple[Array, PyTree]]:
    layers = synapses(network, units)
    probabilities = probabilities.astype(network.network.dtype)
    # An input that is the same in all steps has one current.
    same = ignores_key(rules.encode, probabilities.shape[1:])
    drive = _drive(layers, rules, keys, probabilities, state.step, 1) if same else None

    def advance(length: int, state: State, _: None) -> tuple[State, tuple[Array, PyTree]]:
        driven = drive or _drive(layers, rules, keys, probabilities, state.step, length)
        return _advance(layers, rules, stop, driven, state, length)

    whole, rest = divmod(steps, chunk)
    outputs = []
    if whole:
        state, output = lax.scan(partial(advance, chunk), state, None, length=whole)
        outputs.append(jax.tree.map(lambda x: x.reshape(whole * chunk, *x.shape[2:]), output))
    if rest:
        state, output = advance(rest, state, None)
        outputs.append(output)
    return state, jax.tree.map(lambda *parts: _joined(parts), *outputs)


def _joined(parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


class _Drive(NamedTuple):
    """Inputs of the steps of a chunk [K, B, ...], and the currents of the first layer."""

    inputs: Array
    currents: Array


def _drive(
    layers: Synapses, rules: Rules, keys: Array, probabilities: Array, first: Array, length: int
) -> _Drive:
    keys = jax.random.wrap_key_data(keys, impl="threefry2x32")

    def at(step: Array) -> Array:
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        return jax.vmap(rules.encode)(step_keys, probabilities).astype(layers.dtype)

    inputs = jax.vmap(at)(first + jnp.arange(length))
    return _Drive(inputs, _at_once(layers.currents[0], inputs))


def _at_once(current: Callable[[Array], Array], spikes: Array) -> Array:
    """The currents of all steps [K, B, ...] as one product."""
    together = current(spikes.reshape(-1, *spikes.shape[2:]))
    return together.reshape(*spikes.shape[:2], *together.shape[1:])


def _advance(
    layers: Synapses,
    rules: Rules,
    stop: Stop | None,
    drive: _Drive,
    state: State,
    length: int,
) -> tuple[State, tuple[Array, PyTree]]:
    """One chunk of time: the layers one after the other, each through all steps."""
    currents, all_spikes, all_potentials, new_neurons = drive.currents, [], [], []
    inputs = drive.inputs
    last = len(layers.currents) - 1
    for index, old in enumerate(state.neurons):
        if index:
            currents = _at_once(layers.currents[index], all_spikes[-1])
        keep = index == last or rules.record is not None
        threshold = layers.thresholds[index]
        if rules.fused and not keep:
            new, spikes, potentials = *_fused(threshold, rules, old, currents, length), None
        else:
            fire = partial(_fire, threshold, rules, state.refractory_steps, keep)
            new, (spikes, potentials) = _through(fire, old, currents, length)
        new_neurons.append(new)
        all_spikes.append(spikes)
        all_potentials.append(potentials)
    read, predictions, active = _read(
        layers, rules, stop, state, all_spikes[-1], all_potentials[-1]
    )
    if len(inputs) < length:
        inputs = jnp.broadcast_to(inputs, (length, *inputs.shape[1:]))
    received, *sent = [
        _counted(spikes, active) for spikes in ((inputs != 0).astype(layers.dtype), *all_spikes)
    ]
    after = replace(
        read,
        neurons=new_neurons,
        input_spike_counts=state.input_spike_counts + received,
        spike_counts=[old + new for old, new in zip(state.spike_counts, sent, strict=True)],
    )
    records, record = None, rules.record
    if record is not None:
        shown = [layers.in_units(index, v) for index, v in enumerate(all_potentials)]
        of_step = inputs, all_spikes, shown, predictions
        records = jax.vmap(lambda *fields: record(Step(*fields)))(*of_step)
    return after, (predictions, records)


def _through(
    step: Callable[[Any, Any], tuple[Any, Any]], start: Any, given: Any, length: int
) -> tuple[Any, Any]:
    """A scan over the steps of a chunk; what is given for one step only serves all.

    Accelerators get the steps in one piece of straight code, so that XLA can fuse them and keep
    potentials in registers; a CPU keeps them in its caches anyhow.
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
    rules: Rules,
    refractory_steps: Array,
    keep: bool,
    state: neurons.NeuronState,
    current: Array,
) -> tuple[neurons.NeuronState, tuple[Array, Array | None]]:
    """One step of a layer; the potentials are given out where someone looks at them."""
    state, spikes = neurons.integrate_and_fire(
        state,
        current,
        threshold,
        reset=rules.reset,
        spike=rules.spike,
        refractory_steps=refractory_steps,
    )
    return state, (spikes, state.potential if keep else None)


def _fused(
    threshold: Array, rules: Rules, old: neurons.NeuronState, currents: Array, length: int
) -> tuple[neurons.NeuronState, Array]:
    """As `_through` with `_fire`, in one kernel of a TPU."""
    if len(currents) < length:
        currents = jnp.broadcast_to(currents, (length, *currents.shape[1:]))
    shape = old.potential.shape
    flat = currents.reshape(length, shape[0], -1)
    thresholds = jnp.broadcast_to(threshold, shape[1:]).reshape(-1)
    potential, spikes = fused_update(
        old.potential.reshape(flat.shape[1:]),
        flat,
        thresholds,
        reset=rules.reset,
        interpret=jax.default_backend() != "tpu",
    )
    return replace(old, potential=potential.reshape(shape)), spikes.reshape(currents.shape)


def _read(
    layers: Synapses,
    rules: Rules,
    stop: Stop | None,
    state: State,
    spikes: Array,
    potentials: Array,
) -> tuple[State, Array, Array | None]:
    """What the network says in the steps of a chunk, and which samples still run [K, B]."""
    ends = state.step + 1 + jnp.arange(len(spikes))
    counts = state.spike_counts[-1] + spikes.cumsum(0, dtype=spikes.dtype)
    fired = (spikes > 0).any(-1)
    now = fired.argmax(0)  # the first step of the chunk with an output spike, if there is one
    first = jnp.take_along_axis(spikes, now[None, :, None], 0)[0].argmax(-1).astype(jnp.int32)
    new = (state.first_spike_class < 0) & fired.any(0)

    def seen(end: Array, counts: Array, potential: Array) -> readout.Output:
        known = jnp.where(new & (ends[now] <= end), first, state.first_spike_class)
        return output_seen(counts, potential, layers.thresholds[-1], layers.units[-1], known)

    outputs = jax.vmap(seen)(ends, counts, potentials)
    active = None
    if stop is not None:
        running = state.exit_step == 0
        decided = jax.vmap(stop)(outputs, ends) & running
        exits = jnp.where(decided.any(0), ends[decided.argmax(0)], state.exit_step)
        active = running & ((exits == 0) | (ends[:, None] <= exits))
        new = new & jnp.take_along_axis(active, now[None], 0)[0]
        state = replace(state, exit_step=exits.astype(jnp.int32))
    state = replace(
        state,
        step=state.step + len(spikes),
        first_spike_class=jnp.where(new, first, state.first_spike_class),
        first_spike_step=jnp.where(new, ends[now], state.first_spike_step).astype(jnp.int32),
    )
    return state, jax.vmap(rules.read)(outputs), active


def output_seen(
    counts: Array, potential: Array, threshold: Array, unit: Array | None, first_spike_class: Array
) -> readout.Output:
    """The output layer as readouts and stop rules see it: numbers of floating point.

    With a unit, counts, potential and threshold are integers.
    """
    if unit is not None:
        counts = counts.astype(jnp.result_type(float))
        potential, threshold = potential * unit, threshold * unit
    return readout.Output(counts, potential, threshold, first_spike_class)


def _counted(spikes: Array, active: Array | None) -> Array:
    """Spikes [K, B, ...] of all steps, but those after the exit of a sample."""
    if active is not None:
        spikes = spikes * active.reshape(*active.shape, *[1] * (spikes.ndim - 2))
    return reduce(jnp.add, list(spikes))  # on CPUs many times faster than a sum along the axis


def first_spikes(known: Array, output: Array) -> tuple[Array, Array]:
    """Which samples have their first output spike in this step, and its class for all so far."""
    first = (known < 0) & (output > 0).any(1)
    return first, jnp.where(first, output.argmax(1).astype(jnp.int32), known)


def propagate(
    layers: Synapses,
    old: Sequence[neurons.NeuronState],
    inputs: Array,
    fire: Callable[[neurons.NeuronState, Array, Array], tuple[neurons.NeuronState, Array]],
) -> tuple[list[neurons.NeuronState], list[Array]]:
    """One step of all layers: a spike reaches all later layers within its step.

    Args:
        layers: what the neurons of each layer receive.
        old: the state of each layer `[B, ...]`.
        inputs: the input of the first layer in this step `[B, ...]`.
        fire: one step of a layer, (state, current, threshold) ↦ (state, spikes).

    Returns:
        The new state and the spikes of each layer.
    """
    new, spikes = [], [inputs]
    for current, state, threshold in zip(layers.currents, old, layers.thresholds, strict=True):
        state, fired = fire(state, current(spikes[-1]), threshold)
        new.append(state)
        spikes.append(fired)
    return new, spikes[1:]


@lru_cache
def ignores_key(encode: encoding.Encoding, shape: tuple[int, ...]) -> bool:
    """Whether an encoding draws nothing, so that its input is the same in all steps."""
    traced = jax.make_jaxpr(encode)(jax.random.key(0), jnp.zeros(shape)).jaxpr
    used = [*traced.outvars, *(var for equation in traced.eqns for var in equation.invars)]
    return all(var is not traced.invars[0] for var in used)
