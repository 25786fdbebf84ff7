"""A third engine, in NumPy from the equations: registering it is all that its tests need."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import engines, neurons
from jaxsnn.engines.base import initial_state, output_seen
from jaxsnn.metrics import fan_out
from jaxsnn.network import INPUT, AveragePooling


class NumpyEngine(engines.Engine):
    name = "numpy"

    def unsupported(self, run):
        if run.traced:
            return "it computes outside of JAX"
        if run.stop is not None or run.behaviour.record is not None:
            return "it has no stop rules and records nothing"
        return None

    def simulate(self, run, advance):
        network, state = run.network, jax.tree.map(np.array, initial_state(run))
        matrices = all_matrices(network)
        inputs, first = inputs_of(run), int(state.step)
        fan_outs = [np.asarray(values, np.int64).ravel() for values in fan_out(network.network)]
        predictions, scores, totals, operations = [], [], [], []
        for t, drive in enumerate(inputs):
            values, layers = {INPUT: drive.reshape(len(drive), -1)}, []
            sent = dict(values)
            for index, (layer, of_layer) in enumerate(zip(state.neurons, network.network.layers)):
                parts = zip(of_layer.connections, matrices[index], strict=True)
                current = sum(product(values[p.source], m, network.dtype) for p, m in parts)
                sent[index], values[index] = np.zeros_like(current), current
                if of_layer.spiking or index == len(matrices) - 1:
                    current = current.reshape(layer.potential.shape)
                    if of_layer.bias is not None:
                        current = current + bias_at(of_layer.bias, run, network.dtype)
                    threshold = np.asarray(network.thresholds[index])
                    if not of_layer.spiking:
                        threshold = np.asarray(np.inf)
                    if index == len(matrices) - 1:
                        state = replace(
                            state, received=state.received + self.let_in(layer, current)
                        )
                    layer, fired = self.fire(run, layer, current, threshold)
                    sent[index] = values[index] = fired.reshape(len(fired), -1)
                layers.append(layer)
            state = self.counted(state, layers, drive, sent, first + t + 1)
            step_size = network.step_sizes[-1]
            spiking = network.network.layers[-1].spiking
            seen = output_seen(
                state.spike_counts[-1],
                state.neurons[-1].potential,
                state.received,
                network.thresholds[-1] if spiking else 0.0,
                step_size,
                state.first_spike_class,
                spiking,
            )
            scores.append(np.asarray(seen.scores))
            predictions.append(np.asarray(run.behaviour.read(seen)))
            ones = [(sent[source] != 0).astype(np.int64) for source in (INPUT, *range(len(layers)))]
            totals.append(np.stack([one.sum(1) for one in ones], 1))
            work = [one @ synapses for one, synapses in zip(ones, fan_outs, strict=False)]
            operations.append(sum(work))
            advance(len(drive))
        state = replace(state, step=np.int32(first + run.steps))
        kept = map(np.stack, (totals, operations))
        return engines.Trajectory(state, np.stack(predictions), None, *kept, np.stack(scores))

    @staticmethod
    def let_in(layer, current):
        ready = True if layer.refractory is None else layer.refractory == 0
        return np.where(ready, current, 0).astype(layer.potential.dtype)

    def fire(self, run, layer, current, threshold):
        ready = True if layer.refractory is None else layer.refractory == 0
        threshold = np.broadcast_to(threshold, layer.potential.shape)
        potential = layer.potential + self.let_in(layer, current)
        fired = ((potential >= threshold) & ready).astype(potential.dtype)
        waiting = layer.refractory
        if waiting is not None:
            waiting = np.maximum(np.where(fired > 0, run.refractory_steps, waiting) - 1, 0)
        after = potential
        if fired.any():  # outputs that never spike have an infinite threshold
            after = run.behaviour.reset(*map(jnp.asarray, (potential, fired, threshold)))
        return neurons.NeuronState(np.asarray(after, potential.dtype), waiting), fired

    @staticmethod
    def counted(state, layers, drive, sent, step):
        output = sent[len(layers) - 1]
        new = (state.first_spike_class < 0) & (output > 0).any(1)
        return replace(
            state,
            neurons=layers,
            input_spike_counts=state.input_spike_counts + (drive != 0),
            spike_counts=[
                counts + sent[index].reshape(counts.shape)
                for index, counts in enumerate(state.spike_counts)
            ],
            first_spike_class=np.where(new, output.argmax(1), state.first_spike_class),
            first_spike_step=np.where(new, step, state.first_spike_step),
        )


def product(values, matrix, dtype):
    """Currents; in integers numbers that are no spikes count as multiples of 2^-16."""
    if not np.issubdtype(dtype, np.integer):
        return values.astype(dtype) @ matrix.T.astype(dtype)
    wide = matrix.T.astype(np.int64)
    if np.issubdtype(values.dtype, np.floating):
        numbers = np.rint(values * np.float32(1 << 16)).astype(np.int64)
        return ((numbers @ wide + (1 << 15)) >> 16).astype(dtype)
    return (values @ wide).astype(dtype)


def bias_at(bias, run, dtype):
    """What neurons receive in a step at the rate of the run."""
    if not np.issubdtype(dtype, np.integer):
        return bias * (run.max_rate * run.dt)
    return np.rint(np.asarray(bias) * np.float32(run.max_rate * run.dt)).astype(dtype)


@functools.cache
def encoder(encode):
    return jax.jit(jax.vmap(encode))


def inputs_of(run):
    """The inputs of each step [T, B, ...]: keyed by seed, sample and step alone."""
    keys = jax.random.wrap_key_data(np.asarray(run.keys), impl="threefry2x32")
    first, drawn = run.steps_done, encoder(run.behaviour.encode)
    for step in range(first, first + run.steps):
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        yield np.asarray(drawn(step_keys, run.probabilities))


def matrices_of(network):
    """For each layer the matrix [neurons, senders] of its only connection."""
    return [of_layer[0] for of_layer in all_matrices(network)]


def all_matrices(network):
    """For each layer the matrices [neurons, senders] of its connections, by their unit vectors."""
    integers = np.issubdtype(network.dtype, np.integer)
    found = []
    for layer, row in zip(network.network.layers, network.amplitudes, strict=True):
        found.append([])
        for connection, weight in zip(layer.connections, row, strict=True):
            shape = network.network.shape_of(connection.source)
            x = jnp.eye(int(np.prod(shape))).reshape(-1, *shape)
            for operation in connection.operations:
                wide = jax.tree.map(lambda weights: weights.astype(jnp.float32), operation)
                sums = integers and isinstance(operation, AveragePooling)
                x = operation.sum(x) if sums else wide(x)
            weight = np.broadcast_to(np.asarray(1 if weight is None else weight), shape)
            found[-1].append((np.asarray(x).reshape(len(x), -1) * weight.reshape(-1, 1)).T)
    return found
