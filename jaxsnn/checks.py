"""What `simulate` and `sweep` require of their arguments, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import nullcontext
from functools import lru_cache
from math import ceil
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.typing import ArrayLike

from jaxsnn import encoding, neurons, readout, stopping
from jaxsnn.balancing import check_spiking_network
from jaxsnn.fixed_point import LARGEST_POTENTIAL, FixedPointNetwork
from jaxsnn.network import AnyArray, Network, Shape, holds, is_known, per_layer
from jaxsnn.state import Job, Origin, Rules, State, Step
from jaxsnn.synapses import AnyNetwork
from jaxsnn.typed import Count, Numbers, Real, described
from jaxsnn.warn import warn

_MANY_STEPS = 10_000
_MOST_STEPS = (1 << 31) - 1
_LARGEST_SAMPLE = (1 << 31) - 1


def checked_times(
    duration: Real, dt: Real, max_rate: ArrayLike, refractory_period: Real
) -> tuple[int, int]:
    """The number of steps and of refractory steps."""
    duration, dt, refractory_period = float(duration), float(dt), float(refractory_period)
    if not (np.isfinite(dt) and dt > 0):
        raise ValueError(f"dt={dt}; a step must take more than 0 seconds.")
    if not (np.isfinite(duration) and duration > 0):
        raise ValueError(f"duration={duration}; it must be finite, and more than 0 seconds.")
    if duration / dt > _MOST_STEPS:
        raise ValueError(
            f"duration={duration:g} s is {duration / dt:.3g} steps of dt={dt:g} s; the most are "
            f"{_MOST_STEPS:,}. Both are in seconds."
        )
    steps = round(duration / dt)
    if steps < 1 or abs(steps - duration / dt) > 1e-6 * steps:
        raise ValueError(
            f"duration={duration} is {duration / dt:g} steps of dt={dt}; it must be a whole number "
            "of steps, at least 1. Both are in seconds."
        )
    if steps > _MANY_STEPS:
        warn(f"duration={duration:g} is in seconds: {steps:,} steps of dt={dt:g} s.")
    if not (np.isfinite(refractory_period) and refractory_period >= 0):
        raise ValueError(f"refractory_period={refractory_period}; it must be at least 0 seconds.")
    if refractory_period / dt > _MOST_STEPS:
        raise ValueError(
            f"refractory_period={refractory_period:g} s is too many steps of dt={dt:g} s."
        )
    if is_known(max_rate):
        rate = float(cast(float, max_rate))
        if not (rate >= 0 and np.isfinite(rate)):
            raise ValueError(f"max_rate={rate:g}; a rate must be at least 0 hertz.")
        if rate * dt > 1 + 1e-6:
            raise ValueError(
                f"max_rate={rate:g} Hz times dt={dt:g} s is {rate * dt:g}, but a pixel spikes at "
                f"most once in a step: take max_rate <= {1 / dt:g} or dt <= {1 / rate:g}."
            )
    return steps, in_steps(refractory_period, dt)


def in_steps(refractory_period: float, dt: float) -> int:
    """A refractory period in whole steps; a millionth of it is rounding."""
    return ceil(refractory_period / dt * (1 - 1e-6))


def without_explicit_axes(images: AnyArray) -> AnyArray:
    """Images that are sharded over explicit axes of a mesh, over axes that XLA deals with.

    All that the simulation makes of them would have to name these axes as well; XLA lays it out as
    the images are by itself.
    """
    sharding = images.sharding if isinstance(images, jax.Array) and is_known(images) else None
    if not isinstance(sharding, NamedSharding) or AxisType.Explicit not in sharding.mesh.axis_types:
        return images
    mesh = Mesh(np.asarray(sharding.mesh.devices), sharding.mesh.axis_names)
    compilers = NamedSharding(mesh, sharding.spec, memory_kind=sharding.memory_kind)
    return jax.device_put(images, compilers)


def check_network(network: AnyNetwork) -> None:
    """Raise ValueError where a network cannot be simulated; one of integers was checked before."""
    if not isinstance(network, FixedPointNetwork):
        check_spiking_network(network)


def checked_samples(samples: Numbers | None, batch: int) -> AnyArray:
    """The number of each sample, one integer for each image."""
    if samples is None:
        return cast(AnyArray, np.arange(batch, dtype=np.int32))
    known = is_known(samples) and all(map(is_known, jax.tree.leaves(samples)))
    numbers: Any = np.asarray(samples) if known else jnp.asarray(samples)
    if numbers.shape != (batch,) or not jnp.issubdtype(numbers.dtype, jnp.integer):
        raise ValueError(
            f"samples has shape {numbers.shape} and dtype {numbers.dtype}; it must be one integer "
            f"for each of the {batch} images."
        )
    if known and np.any((numbers < 0) | (numbers > _LARGEST_SAMPLE)):
        wrong = numbers[(numbers < 0) | (numbers > _LARGEST_SAMPLE)][0]
        raise ValueError(
            f"samples has the number {wrong}; sample numbers are integers from 0 to "
            f"{_LARGEST_SAMPLE}."
        )
    return cast(AnyArray, numbers.astype(np.int32))


def check_state(
    network: AnyNetwork,
    state: State,
    origin: Origin,
    batch: int,
    dt: float,
    refractory_steps: int,
) -> None:
    """Raise ValueError where a state does not belong to this run."""
    expected = [(batch, *shape) for shape in network.network.shapes]
    found = [layer.potential.shape for layer in state.neurons]
    if found != expected:
        raise ValueError(
            f"the state has potentials of shape {found}, but this network and these {batch} images "
            f"need {expected}; resume with the network and the images of the earlier run."
        )
    integers = isinstance(network, FixedPointNetwork)
    same = jnp.issubdtype(state.neurons[0].potential.dtype, jnp.integer) == integers
    if integers and is_known(network.grid):
        grid = np.asarray(network.grid)
        same = same and holds(lambda value: value == grid, state.grid)
    if not same:
        raise ValueError(
            "the state comes from a run with another arithmetic, or other grids of the weights; "
            "resume with that run's network."
        )
    if not holds(lambda value: value == 0, state.exit_step):
        raise ValueError(
            "the state comes from a run in which a stop rule ended samples; resume from one "
            "without."
        )
    if not holds(lambda value: value == np.float32(dt), state.dt):
        raise ValueError(f"the state comes from a run with dt={state.dt:g}, not {dt:g}.")
    if not holds(lambda value: value == refractory_steps, state.refractory_steps):
        raise ValueError(
            f"the state comes from a run with a refractory period of {state.refractory_steps} "
            f"steps, not {refractory_steps}; resume with the same."
        )
    if differing := [] if state.origin is None else state.origin.differing(origin):
        raise ValueError(
            f"the state comes from a run with other {', '.join(differing)}; resume with the same, "
            "or say that the change is meant: state=run.state.detached()."
        )


def checked_sizes(**sizes: Count | None) -> list[int | None]:
    """The sizes as integers of Python, or ValueError where one is given that is below 1."""
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name}={size}; it must be at least 1.")
    return [None if size is None else int(size) for size in sizes.values()]


def start_potentials(network: AnyNetwork, potential: Numbers) -> list[AnyArray]:
    """The membrane potentials at the start of each layer, in the arithmetic of the network."""
    fixed = isinstance(network, FixedPointNetwork)
    if isinstance(potential, float) and potential == 0:
        zero = np.zeros((), np.int32 if fixed else network.network.dtype)
        return [cast(AnyArray, zero)] * len(network.network.layers)
    known = all(map(is_known, jax.tree.leaves(potential)))
    if fixed and not known:
        raise ValueError(
            "initial_potential is traced, but fixed-point arithmetic requires known values: keep "
            "it out of the arguments of jit."
        )
    with jax.ensure_compile_time_eval() if known else nullcontext():
        potentials = per_layer(network.network, potential, "initial_potential")
        for index, values in enumerate(potentials):
            if not holds(jnp.isfinite, values):
                raise ValueError(
                    f"initial_potential: {network.network.name(index)} would start at {values}; "
                    "it must be finite."
                )
    if not isinstance(network, FixedPointNetwork):
        return [values.astype(network.network.dtype) for values in potentials]
    return [_integer_potential(network, index, values) for index, values in enumerate(potentials)]


def _integer_potential(network: FixedPointNetwork, index: int, potential: Any) -> AnyArray:
    unit = np.asarray(network.units[index], np.float64)
    integers = np.rint(np.asarray(potential, np.float64) / unit)
    if not np.all(np.abs(integers) < LARGEST_POTENTIAL):
        raise ValueError(
            f"initial_potential: {network.network.name(index)} would start at "
            f"{np.max(np.abs(integers)):.3g} steps of its grid; the limit is "
            f"{LARGEST_POTENTIAL}. Use float32."
        )
    return jnp.asarray(integers.astype(np.int32))


def check_fixed_point(job: Job) -> None:
    """Raise ValueError where a job has no exact form in integers."""
    assert isinstance(job.network, FixedPointNetwork)
    if job.state is not None and not is_known(job.state.step):
        raise ValueError(
            "the state is traced, so that it is not known how many steps were done, and whether "
            "integer potentials could overflow: resume outside of jit, or simulate all steps in "
            "one call."
        )
    done = 0 if job.state is None else int(job.state.step)
    check_steps(done + job.steps, job.network.steps)
    check_exact(job.rules.reset, job.rules.encode, job.network.network.input_shape)
    spike = job.rules.spike
    if spike is not neurons.heaviside:
        with jax.ensure_compile_time_eval():
            theta = jnp.array(1 << 20)
            found = spike(theta + jnp.array([-theta, -1, 0, 1]), theta)
        if not holds(lambda value: value == np.array([0, 0, 1, 1]), found):
            raise ValueError(
                "the spike function is not a step at the threshold, V >= θ, the only one that "
                "fixed-point arithmetic supports; use float32."
            )


def check_fused(job: Job) -> None:
    """Raise ValueError where the kernel for TPUs cannot update the neurons."""
    if job.refractory_steps > 1 or job.rules.spike is not neurons.heaviside:
        raise ValueError(
            'engine="pallas" knows no refractory periods and no spike functions but the step; take '
            'engine="scan".'
        )


def check_steps(steps: int, most: int) -> None:
    """Raise ValueError where a run in fixed point is longer than its potentials allow."""
    if steps > most:
        raise ValueError(
            f"a run of {steps} steps, but the potentials are sure not to overflow for {most} only: "
            f"take FixedPoint(..., steps={steps}) or quantize(..., steps={steps})."
        )


def check_exact(reset: neurons.Reset, encode: encoding.Encoding, shape: tuple[int, ...]) -> None:
    """Raise ValueError where a reset or an encoding has no exact form in integers.

    Args:
        reset: the reset.
        encode: the encoding.
        shape: shape of an image.
    """
    if reset not in (neurons.reset_to_zero, neurons.reset_by_subtraction):
        raise ValueError(
            "fixed-point arithmetic has the resets reset_to_zero and reset_by_subtraction, for "
            "which potentials are bounded; for another, use float32."
        )
    if encode is encoding.poisson:
        return
    with jax.ensure_compile_time_eval():
        levels = jnp.linspace(0, 1, 9, dtype=jnp.float32)
        sent = jax.vmap(lambda p: encode(jax.random.key(0), jnp.full(shape, p)))(levels)
    if not holds(lambda value: (value == 0) | (value == 1), sent):
        raise ValueError(
            "the encoding sends other numbers than 0 and 1, but fixed-point arithmetic takes "
            "spikes only: use poisson or another encoding by spikes, or float32."
        )


# -- Functions of the user -------------------------------------------------------------------------


def check_rules(rules: Rules, stop: stopping.Stop | None, network: Network) -> None:
    """Raise ValueError where a function does not take or return what it has to."""
    for name, function in (*rules._asdict().items(), ("stop", stop)):
        if not isinstance(function, Hashable):
            raise ValueError(
                f"{name}={described(function)} has no hash, by which compiled programs are kept: "
                "give a function, or a class with __hash__."
            )
    shape, output = network.input_shape, (2, *network.shapes[-1])
    _check_function("encode", rules.encode, shape, shape)
    _check_function("reset", rules.reset, output, output)
    _check_function("spike", rules.spike, output, output)
    _check_function("read", rules.read, output[:1], output)
    if isinstance(stop, stopping.Margin):
        stopping.check_margin(stop.spikes, stop.every)
    elif stop is not None:
        _check_function("stop", stop, output[:1], output)
    if rules.record is not None:
        _check_record(rules.record, shape, tuple(network.shapes))


@lru_cache(maxsize=64)
def _check_function(name: str, function: Callable[..., Any], returned: Shape, shape: Shape) -> None:
    """Try a function on arrays of a shape; it must return one array, of the shape given."""
    with jax.ensure_compile_time_eval():
        zeros, one, step = jnp.zeros(shape), jnp.ones(()), jnp.ones((), jnp.int32)
        output = readout.Output(zeros, zeros, one, jnp.zeros(len(zeros), jnp.int32))
        arguments = {
            "encode": ("key, probabilities", (jax.random.key(0), zeros)),
            "reset": ("V, S, θ", (zeros, zeros, one)),
            "spike": ("V, θ", (zeros, one)),
            "read": ("output", (output,)),
            "stop": ("output, steps", (output, step)),
        }
        called, given = arguments[name]
        try:
            found = function(*given)
        except Exception as error:
            raise ValueError(
                f"{name}={described(function)} cannot be called as {name}({called}): {error}"
            ) from error
    kinds, meaning = _RETURNED.get(name, ((jnp.floating, jnp.integer, np.bool_), "real numbers"))
    dtype = getattr(found, "dtype", np.dtype(object))
    if np.shape(found) != returned or not any(jnp.issubdtype(dtype, kind) for kind in kinds):
        raise ValueError(
            f"{name}={described(function)} returned {described(found)} in a trial with arguments "
            f"of shape {shape}; it must return an array of shape {returned} of {meaning}."
        )
    if name == "read" and not holds(lambda value: (value >= -1) & (value < shape[-1]), found):
        raise ValueError(
            f"read={described(function)} returned class {int(found[0])}, but there are the classes "
            f"0 to {shape[-1] - 1}, and -1 for a sample that is undecided."
        )


@lru_cache(maxsize=64)
def _check_record(record: Callable[[Step], Any], shape: Shape, shapes: tuple[Shape, ...]) -> None:
    """Try a record function on the step of two samples."""

    def zeros(shape: Shape) -> Any:
        return jax.ShapeDtypeStruct((2, *shape), jnp.float32)

    layers = [zeros(layer) for layer in shapes]
    step = Step(zeros(shape), layers, layers, zeros(()).update(dtype=jnp.int32))
    try:
        found = jax.eval_shape(record, step)
    except Exception as error:
        raise ValueError(
            f"record={described(record)} cannot be called as record(step): {error}"
        ) from error
    for leaf in jax.tree.leaves(found):
        if jnp.shape(leaf)[:1] != (2,):
            raise ValueError(
                f"record={described(record)} returned an array of shape {jnp.shape(leaf)} for 2 "
                "samples; its first axis must be the samples, since a batch may be computed in "
                "parts."
            )


_RETURNED: dict[str, tuple[tuple[Any, ...], str]] = {
    "read": ((jnp.integer,), "integers, a class for each sample"),
    "stop": ((np.bool_,), "bools, whether a sample is decided"),
}
