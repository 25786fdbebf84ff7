"""What `simulate` and `sweep` require of their arguments, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache
from math import ceil
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.typing import ArrayLike

from jaxsnn import encoding, neurons, readout, stopping
from jaxsnn.engines.base import Behaviour, Run, Step, arithmetic_of
from jaxsnn.network import Network, warn_of_bytes
from jaxsnn.support.arrays import AnyArray, Shape, all_true, as_jax, is_known
from jaxsnn.support.typed import Numbers, Real, described
from jaxsnn.support.warn import warn

_MANY_STEPS = 10_000
_MOST_STEPS = (1 << 31) - 1
_LARGEST_SAMPLE = (1 << 31) - 1


def checked_times(
    duration: Real,
    dt: Real,
    max_rate: ArrayLike,
    refractory_period: Real,
    *,
    in_seconds: bool = True,
) -> tuple[int, int]:
    """The number of steps and of refractory steps.

    A long duration is warned of where it was given in seconds, and not as a number of steps.
    """
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
    if in_seconds and steps > _MANY_STEPS:
        warn(
            f"duration={duration:g} is in seconds: {steps:,} steps of dt={dt:g} s. For "
            f"{duration:g} steps, duration={duration * dt:g}."
        )
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


def checked_images(network: Network, images: ArrayLike, encode: encoding.Encoding) -> AnyArray:
    """Images for an encoding: constant currents may be any finite numbers, others are in [0, 1]."""
    if encode is not encoding.constant:
        return network.check_pixels(images)
    checked = network.check_finite(images)
    warn_of_bytes(checked)
    return checked


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


def check_state(run: Run) -> None:
    """Raise ValueError where the state that a run resumes from does not belong to it."""
    state, network, batch = run.state, run.network, len(run.images)
    assert state is not None
    expected = [(batch, *shape) for shape in network.network.shapes]
    found = [layer.potential.shape for layer in state.neurons]
    if found != expected:
        raise ValueError(
            f"the state has potentials of shape {found}, but this network and these {batch} images "
            f"need {expected}; resume with the network and the images of the earlier run."
        )
    integers = jnp.issubdtype(network.dtype, jnp.integer)
    same = jnp.issubdtype(state.neurons[0].potential.dtype, jnp.integer) == integers
    arithmetic = arithmetic_of(network)
    if is_known(arithmetic):
        number = np.asarray(arithmetic)
        same = same and all_true(lambda value: value == number, state.arithmetic)
    if not same:
        raise ValueError(
            "the state comes from a run with another arithmetic, or other grids of the weights; "
            "resume with that run's network."
        )
    if not all_true(lambda value: value == 0, state.exit_step):
        raise ValueError(
            "the state comes from a run in which a stop rule ended samples; resume from one "
            "without."
        )
    if not all_true(lambda value: value == np.float32(run.dt), state.dt):
        raise ValueError(f"the state comes from a run with dt={state.dt:g}, not {run.dt:g}.")
    if not all_true(lambda value: value == run.refractory_steps, state.refractory_steps):
        raise ValueError(
            f"the state comes from a run with a refractory period of {state.refractory_steps} "
            f"steps, not {run.refractory_steps}; resume with the same."
        )
    differing = state.origin.differing(run.origin) if state.origin and run.origin else []
    if differing:
        raise ValueError(
            f"the state comes from a run with other {', '.join(differing)}; resume with the same, "
            "or say that the change is meant: state=run.state.detached()."
        )
    if integers and not is_known(state.step):
        raise ValueError(
            "the state is traced, so that it is not known how many steps were done, and whether "
            "integer potentials could overflow: resume outside of jit, or simulate all steps in "
            "one call."
        )


# -- Functions of the user -------------------------------------------------------------------------


def check_behaviour(behaviour: Behaviour, stop: stopping.Stop | None, network: Network) -> None:
    """Raise ValueError where a function does not take or return what it has to."""
    for name, function in (*behaviour._asdict().items(), ("stop", stop)):
        if not isinstance(function, Hashable):
            raise ValueError(
                f"{name}={described(function)} has no hash, by which compiled programs are kept: "
                "give a function, or a class with __hash__."
            )
    shape, output = network.input_shape, (2, *network.shapes[-1])
    _check_function("encode", behaviour.encode, shape, shape)
    _check_function("reset", behaviour.reset, output, output)
    _check_function("spike", behaviour.spike, output, output)
    _check_function("read", behaviour.read, output[:1], output)
    if not network.layers[-1].spiking:
        _check_accumulates(behaviour.read, stop, network)
    if isinstance(stop, stopping.Margin):
        stopping.check_margin(stop.spikes, stop.every)
    elif stop is not None:
        _check_function("stop", stop, output[:1], output)
    if behaviour.record is not None:
        _check_record(behaviour.record, shape, tuple(network.shapes))


def _check_accumulates(read: Any, stop: Any, network: Network) -> None:
    """Raise ValueError where a readout or a stop rule waits for spikes that never come."""
    waits = {
        "read=readout.spike_count": read is readout.spike_count,
        "read=readout.first_spike": read is readout.first_spike,
        "stop=stopping.first_spike": stop is stopping.first_spike,
    }
    for name in (name for name, given in waits.items() if given):
        raise ValueError(
            f"{name}: {network.name(len(network.layers) - 1)} has no ReLU, so that the outputs "
            "accumulate what they receive and never spike; use readout.score, and "
            "stopping.margin, which compares scores."
        )


@lru_cache(maxsize=64)
def _check_function(name: str, function: Callable[..., Any], returned: Shape, shape: Shape) -> None:
    """Try a function on arrays of a shape; it must return one array, of the shape given."""
    if function in _OF_THE_LIBRARY[name]:
        return
    with jax.ensure_compile_time_eval():
        number = jnp.result_type(float)
        zeros, one, step = map(as_jax, (np.zeros(shape, number), number.type(1), np.int32(1)))
        output = readout.Output(zeros, zeros, one, as_jax(np.zeros(shape[0], np.int32)))
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
    if name == "read" and not all_true(lambda value: (value >= -1) & (value < shape[-1]), found):
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


_OF_THE_LIBRARY: dict[str, tuple[Any, ...]] = {  # which need no trial
    "encode": (encoding.poisson, encoding.constant),
    "reset": (neurons.reset_to_zero, neurons.reset_by_subtraction),
    "spike": (neurons.heaviside,),
    "read": readout.OF_THE_LIBRARY,
    "stop": (stopping.first_spike,),
}
_RETURNED: dict[str, tuple[tuple[Any, ...], str]] = {
    "read": ((jnp.integer,), "integers, a class for each sample"),
    "stop": ((np.bool_,), "bools, whether a sample is decided"),
}
