"""The scan: a compiled loop over time in JAX, for all devices and both arithmetics.

lowering   a network as functions from spikes to currents
integers   number formats for exact products
patches    convolutions as products
loop       the loop over time, with observers
points     the loop for all points of a sweep, on a mesh of devices
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import prod
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxsnn import metrics, neurons, stopping
from jaxsnn.conversion.executable import gives_probabilities
from jaxsnn.engines.base import (
    Behaviour,
    Engine,
    Run,
    State,
    Trajectory,
    initial_state,
    no_progress,
    segments,
    take_samples,
)
from jaxsnn.engines.scan.loop import Kept, joined, recorder, sample_counts, scan_steps
from jaxsnn.engines.scan.lowering import compiled, fastest_formats, is_compiled
from jaxsnn.engines.scan.points import simulate_points
from jaxsnn.support.arrays import AnyArray, is_known, numbers_of
from jaxsnn.support.typed import Count, typed

# Potentials, counters and spikes of a batch; small batches stay in a CPU's caches.
_BYTES_PER_BATCH_OF_CPUS = 5 << 22
_BYTES_OF_ACCELERATORS = 8 << 30  # the memory of those that do not say how much they have
# Steps of one compiled scan, at most: what a progress bar waits for.
_STEPS_PER_SEGMENT = 100
# Steps between which decided samples leave the batch.
_STEPS_BETWEEN_EXITS = 5
# On a CPU a layer goes through several steps at a time: until what it computes is as much as the
# weights that are read for it, and where neurons are too few to keep the cores busy.
_NEURONS_AT_ONCE = 1 << 19
_LONGEST_CHUNK = 100
# Where there may be gradients, which keep all steps anyhow, a chunk is as long as memory allows:
# XLA computes the gradients of kernels slowly in the loop over chunks.
_NEURONS_TRACED = 1 << 27
_CHUNK_OF_ACCELERATORS = 10  # on an H200 1.2 times as fast as 8; 20 to 100 are no faster
# Programs of so many sets of functions are kept: a new `record=lambda ...` in each call makes a new
# program each time, of several megabytes.
_PROGRAMS = 16


@typed
@dataclass(frozen=True)
class Scan(Engine):
    """The compiled loop over time: any device, both arithmetics, differentiable.

    Each number of steps and of samples is a program of its own, where the events have one for all:
    simulate the longest duration, whose predictions are there after every step.

    Attributes:
        batch_size: how many samples to compute at a time; by default as many as fit the caches of
            a CPU, or the memory of another device.
        chunk: for how many steps the currents of a layer are computed as one product; by default
            more than one where neurons are few beside the weights, which are then read less often.
        remat: whether gradients compute the steps of a chunk again, in place of keeping what was
            computed in them: their memory then grows with the number of chunks, and not of steps.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), jnp.zeros((1, 2)))
        >>> snn = jaxsnn.balance_thresholds(network, 1.0)
        >>> run = jaxsnn.simulate(snn, jnp.ones((3, 2)), key=0, duration=0.004,
        ...                       engine=jaxsnn.engines.Scan(batch_size=2))
        >>> run.spike_counts[0].tolist()
        [[2.0, 2.0], [2.0, 2.0], [2.0, 2.0]]
    """

    batch_size: Count | None = None
    chunk: Count | None = None
    remat: bool = False
    name = "scan"

    def __post_init__(self) -> None:
        for name, size in (("batch_size", self.batch_size), ("chunk", self.chunk)):
            if size is not None and size < 1:
                raise ValueError(f"{name}={size}; it must be at least 1.")
            object.__setattr__(self, name, None if size is None else int(size))

    def unsupported(self, run: Run) -> str | None:
        for index, layer in enumerate(run.network.network.layers):
            for connection in layer.all_connections:
                for operation in connection.operations:
                    if not is_compiled(operation):
                        kind = type(operation).__name__
                        return f"it does not compute {kind}, in {run.network.network.name(index)}"
        return None

    def samples_at_once(self, run: Run) -> int:
        if self.batch_size is not None:
            return self.batch_size
        network = run.network.network
        numbers = sum(map(prod, (network.input_shape, *network.shapes)))
        if jax.default_backend() == "cpu":
            return max(1, _BYTES_PER_BATCH_OF_CPUS // (4 * 3 * numbers))
        # Currents, spikes and potentials of all steps of a chunk, in half of the memory: results
        # of several batches go to the host, which takes longer than to compute them.
        memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
        chunk = self.chunk or _fitting_chunk(run)
        budget = (memory or _BYTES_OF_ACCELERATORS) // 2
        return max(1, budget // (4 * 3 * (1 + chunk) * numbers))

    def simulate(self, run: Run, advance: Callable[[int], Any]) -> Trajectory:
        state = _spoiled_if_invalid(run, initial_state(run))
        chunk = self.chunk or _fitting_chunk(run)
        if run.stop is not None and not run.traced:
            found = _to_exits(run, state, chunk, advance)
        else:
            found = _to_the_end(run, state, chunk, advance, self.remat)
        if run.stop is not None and found.records is not None:
            found = found._replace(records=_silent_after_exits(found, run.steps))
        return _with_sample_counts(found) if run.per_step else found

    simulate_points: ClassVar[Any] = staticmethod(simulate_points)


def _spoiled_if_invalid(run: Run, state: State) -> State:
    """The state with counts of nan where traced settings are out of range, which no check can see.

    Potentials of nan never reach a threshold, so that all samples stay undecided.
    """
    network = run.network
    settings = jax.tree.leaves((network.thresholds, network.amplitudes))
    valid = [value > 0 for value in settings if not is_known(value)]
    if not is_known(run.max_rate):
        valid.append(gives_probabilities(run.max_rate, run.dt))
    if not valid or jnp.issubdtype(network.dtype, jnp.integer):  # there, the input is cut off
        return state
    nan = jnp.where(jnp.stack([jnp.all(value) for value in valid]).all(), 0.0, jnp.nan)
    spoiled = [replace(layer, potential=layer.potential + nan) for layer in state.neurons]
    return replace(
        state,
        neurons=spoiled,
        input_spike_counts=state.input_spike_counts + nan,
        spike_counts=[counts + nan for counts in state.spike_counts],
    )


def _fitting_chunk(run: Run) -> int:
    """For how many steps the currents of a layer are computed as one product."""
    images = run.images
    if isinstance(images, jax.Array) and is_known(images) and len(images.sharding.device_set) > 1:
        return 1  # several steps and samples as one axis would be gathered on every device
    if jax.default_backend() != "cpu":  # one that divides the steps, so that there is one program
        return segments(segments(run.steps, _STEPS_PER_SEGMENT)[0], _CHUNK_OF_ACCELERATORS)[0]
    network = run.network.network
    neurons = len(images) * sum(map(prod, network.shapes))
    if run.traced:
        return max(1, min(_NEURONS_TRACED // neurons, run.steps))
    weights = sum(np.size(leaf) for leaf in jax.tree.leaves(network))
    fitting = max(_NEURONS_AT_ONCE, weights) // neurons
    return max(1, min(_LONGEST_CHUNK, fitting, run.steps))


def _to_the_end(
    run: Run, state: State, chunk: int, advance: Callable[[int], Any], remat: bool
) -> Trajectory:
    """All steps of all samples."""
    outputs, scan = [], scanner(run, chunk, remat)
    for steps in segments(run.steps, _STEPS_PER_SEGMENT):
        state, output = scan(state, steps)
        outputs.append(output)
        if advance is not no_progress:  # nobody waits for the device unless someone watches
            jax.block_until_ready(state)
            advance(steps * len(run.images))
    return _trajectory(state, joined(outputs))


def _trajectory(state: State, kept: Kept) -> Trajectory:
    return Trajectory(state, kept.predictions, kept.observed, scores=kept.scores)


def _with_sample_counts(found: Trajectory) -> Trajectory:
    """The trajectory with what `program` put beside the records for `Run.per_step`."""
    records, counts = found.records
    high, low = (np.asarray(part, np.int64) for part in counts.operations)
    return found._replace(
        records=records,
        spikes=np.stack(counts.spikes, -1),
        operations=(high << 16) + low,
    )


def scanner(
    run: Run, chunk: int, remat: bool = False
) -> Callable[[State, int], tuple[State, Kept]]:
    """A function from a state and a number of steps to what the compiled loop makes of them."""
    probabilities, stop = run.probabilities, stopping.as_argument(run.stop)
    # Of one type, so that rates share a program.
    rate: Any = run.max_rate * run.dt
    rate = numbers_of(rate).asarray(rate, run.network.network.dtype)
    advance = program(run.behaviour)
    # The reset is among the functions of the program, and potentials are in the state.
    network = run.network.bare()
    binary = not run.traced and neurons.is_step(run.behaviour.spike)
    formats = fastest_formats(network, binary=binary)
    fan_outs = None
    if run.per_step:
        fan_outs = [values.astype(jnp.int32) for values in metrics.fan_out(network.network)]

    def scan(state: State, steps: int) -> tuple[State, Kept]:
        options: dict[str, Any] = {"steps": steps, "chunk": min(chunk, steps), "formats": formats}
        options |= {"remat": remat, "traced_on_cpu": run.traced and jax.default_backend() == "cpu"}
        # What no step changes does not go to the device and back.
        same = {name: getattr(state, name) for name in ("samples", "dt", "arithmetic", "origin")}
        here = replace(state, **dict.fromkeys(same))
        new, kept = advance(network, probabilities, run.keys, rate, here, stop, fan_outs, **options)
        return replace(new, **same), kept

    return scan


@lru_cache(maxsize=_PROGRAMS)
def program(behaviour: Behaviour) -> Any:
    """`loop.scan_steps` for one set of functions, as a function that JAX compiles."""

    @partial(jax.jit, static_argnames=("steps", "chunk", "formats", "remat", "traced_on_cpu"))
    def advance(
        network,
        probabilities,
        keys,
        rate,
        state,
        stop,
        fan_outs,
        *,
        steps,
        chunk,
        formats,
        remat,
        traced_on_cpu,
    ):
        # Without compilation, these are of NumPy.
        keys, rate, state = jax.tree.map(jnp.asarray, (keys, rate, state))
        observe = recorder(behaviour.record)
        if fan_outs is not None:
            record = observe
            observe = lambda chunk: (record(chunk), sample_counts(chunk, fan_outs))  # noqa: E731
        return scan_steps(
            compiled(network, formats, unfolded=traced_on_cpu and remat),
            behaviour,
            jnp.asarray(probabilities, network.network.dtype),
            keys,
            rate,
            state,
            stop,
            steps=steps,
            chunk=chunk,
            observe=observe,
            remat=remat,
            unrolled=traced_on_cpu and not remat,  # straight code would keep everything
        )

    return advance


# -- Early exits -----------------------------------------------------------------------------------


def _to_exits(run: Run, state: State, chunk: int, advance: Callable[[int], Any]) -> Trajectory:
    """As `_to_the_end`; samples that a stop rule has ended leave the batch.

    The batch is halved as soon as half of it is decided, so that few programs are compiled.
    """
    scan, samples, total = scanner(run, chunk), len(run.images), run.steps * len(run.images)
    running, part, done, worked = np.arange(samples), run, 0, 0
    whole: Any = None
    for steps in segments(run.steps, _STEPS_BETWEEN_EXITS):
        state, output = scan(state, steps)
        if whole is None:
            whole = _trajectory(jax.tree.map(np.array, state), _of_all_steps(output, run.steps))
        whole = whole._replace(state=jax.tree.map(_put(running), whole.state, state))
        now = slice(done, done + steps)
        written = Kept(whole.predictions, whole.scores, whole.records)
        jax.tree.map(_put_at(now, running), written, output)
        done += steps
        worked += steps * len(running)
        advance(steps * len(running))
        left = np.flatnonzero(np.asarray(state.exit_step) == 0)
        if len(left) == 0:
            break
        if len(left) <= len(running) // 2:
            kept = _padded(left, len(running) // 2)
            running, state, part = running[kept], take_samples(state, kept), part.of_samples(kept)
            scan = scanner(part, chunk)
    advance(total - worked)
    step = np.asarray(whole.state.step) - done + run.steps
    return whole._replace(state=replace(whole.state, step=step))


def _of_all_steps(output: Kept, steps: int) -> Kept:
    """Arrays for what is kept of all steps: -1 for predictions, else 0 where nothing is written."""
    whole: Any = jax.tree.map(lambda leaf: np.zeros((steps, *leaf.shape[1:]), leaf.dtype), output)
    whole.predictions[:] = -1
    return whole


def _padded(left: np.ndarray, size: int) -> np.ndarray:
    """The samples that are left, some of them repeated: half as many as before, or fewer."""
    while size // 2 >= len(left) and size > 1:
        size //= 2
    return np.resize(left, size)


def _put(places: np.ndarray) -> Callable[[np.ndarray, Array], np.ndarray]:
    """A function that writes the values of some samples into those of all."""

    def write(whole: np.ndarray, part: Array) -> np.ndarray:
        if whole.ndim == 0:
            return np.asarray(part)
        whole[places] = part
        return whole

    return write


def _put_at(steps: slice, places: np.ndarray) -> Callable[[np.ndarray, Array], None]:
    """As `_put`, at some steps of predictions and records."""

    def write(whole: np.ndarray, part: Array) -> None:
        whole[steps, places] = part

    return write


def _silent_after_exits(found: Trajectory, steps: int) -> Any:
    """Records [T, B, ...] with nothing of a sample after the step that decided it."""
    state = found.state
    done = state.step - steps + jnp.arange(steps, dtype=jnp.int32)
    exits = state.exit_step[None]
    after = (done[:, None] >= exits) & (exits > 0)

    def silenced(kept: AnyArray) -> AnyArray:
        if isinstance(kept, np.ndarray):
            kept[np.asarray(after)] = 0
            return kept
        there = after.reshape(*after.shape, *[1] * (kept.ndim - 2))
        return jnp.where(there, jnp.zeros((), kept.dtype), kept)

    return jax.tree.map(silenced, found.records)
