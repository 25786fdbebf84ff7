"""The integrate-and-fire neuron: its state, one pure step, resets and the spike function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array, Num

from jaxsnn.support.arrays import AnyArray, all_true
from jaxsnn.support.typed import Count, Numbers, Real, Scalar, Values, described, typed

if TYPE_CHECKING:
    from flax import nnx

Reset = Annotated[
    Callable[[Array, Array, Array], Array],
    "a function (V, S, θ) → V, such as jaxsnn.reset_to_zero or jaxsnn.reset_by_subtraction",
]
Spike = Annotated[
    Callable[[Array, Array], Array],
    "a function (V, θ) → S, such as jaxsnn.step_function(jaxsnn.boxcar())",
]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NeuronState:
    """What a layer of integrate-and-fire neurons carries from step to step.

    ==============  ==========  ====================================================
    field           shape       meaning
    ==============  ==========  ====================================================
    potential       [B, ...]    membrane potential
    refractory      [B, ...]    steps for which input is still ignored, or None if
                                there is no refractory period longer than one step
    ==============  ==========  ====================================================
    """

    potential: AnyArray
    refractory: AnyArray | None


def initial_state(
    shape: tuple[int, ...], potential: AnyArray, counts_refractory_steps: bool
) -> NeuronState:
    """Neurons `[B, ...]` at the start; without refractory periods there is nothing to count.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn import neurons
        >>> neurons.initial_state((1, 2), jnp.zeros(()), False).potential.tolist()
        [[0.0, 0.0]]
    """
    numbers: Any = np if isinstance(potential, np.ndarray) else jnp
    waiting = numbers.zeros(shape, np.int32) if counts_refractory_steps else None
    return NeuronState(numbers.broadcast_to(potential, shape), waiting)


@typed
def integrate_and_fire(
    state: NeuronState,
    current: Values,
    threshold: Values,
    *,
    reset: Reset,
    spike: Spike,
    refractory_steps: Scalar = 0,
) -> tuple[NeuronState, Num[Array, "..."]]:
    """One step of a layer of neurons.

        V ← V + current        S = 1 where V ≥ θ, else 0        V ← reset(V, S, θ)

    A neuron that spiked in step t ignores its input in the steps t+1 … t+r-1, where r is
    `refractory_steps`: two spikes of it are at least r steps apart. There is no leak, and V has no
    lower bound.

    Source: Diehl et al. 2015 and the authors' code.

    Args:
        state: potentials and refractory counters `[B, ...]`.
        current: weighted sum of the input spikes of this step `[B, ...]`.
        threshold: θ, broadcasting to `[B, ...]`.
        reset: `reset(V, S, θ)`, the potentials after the spikes.
        spike: `spike(V, θ)`, 1 where a neuron spikes; it may have a surrogate gradient.
        refractory_steps: r; without effect if the state has no counters.

    Returns:
        The new state and the spikes S, 0 or 1, in the dtype of the potentials.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn import neurons
        >>> state = neurons.NeuronState(jnp.array([[0.5, 0.5]]), None)
        >>> state, spikes = neurons.integrate_and_fire(
        ...     state, jnp.array([[0.25, 0.75]]), jnp.ones(()),
        ...     reset=neurons.reset_by_subtraction, spike=neurons.heaviside)
        >>> spikes.tolist(), state.potential.tolist()
        ([[0.0, 1.0]], [[0.75, 0.25]])
    """
    ready = True if state.refractory is None else state.refractory == 0
    potential = state.potential + jnp.where(ready, current, 0)
    spikes = jnp.where(ready, spike(potential, threshold), 0).astype(potential.dtype)
    refractory = state.refractory
    if refractory is not None:
        left = jnp.where(spikes > 0, refractory_steps, refractory) - 1
        refractory = jnp.maximum(left, 0).astype(refractory.dtype)
    after = reset(potential, spikes, threshold).astype(potential.dtype)
    return NeuronState(after, refractory), spikes


# -- Resets ----------------------------------------------------------------------------------------


@typed
def reset_to_zero(potential: Values, spikes: Values, threshold: Values) -> Array:
    """V ← 0 after a spike; what exceeded the threshold is lost (Diehl et al. 2015).

    Also called the hard reset.

    Example:
        >>> import jax.numpy as jnp, jaxsnn
        >>> jaxsnn.reset_to_zero(jnp.array([1.25, 0.5]), jnp.array([1.0, 0.0]), 1.0).tolist()
        [0.0, 0.5]
    """
    del threshold
    return potential * (1 - spikes)


@typed
def reset_by_subtraction(potential: Values, spikes: Values, threshold: Values) -> Array:
    """V ← V - θ after a spike; what exceeded the threshold is kept (Rueckauer et al. 2017).

    Also called the soft reset.

    Example:
        >>> import jax.numpy as jnp, jaxsnn
        >>> jaxsnn.reset_by_subtraction(jnp.array([1.25, 0.5]), jnp.array([1.0, 0.0]), 1.0).tolist()
        [0.25, 0.5]
    """
    return potential - spikes * threshold


# -- Spikes with a gradient ------------------------------------------------------------------------


@typed
def boxcar(width: Real = 1.0) -> Callable[[Array], Array]:
    """Surrogate derivative 1 for `|x|` < width/2, else 0, with x = V/θ - 1: the default.

    Of those that were tried with the resets as they are (`benchmarks/surrogates.py`), its gradients
    agree best with what a change of thresholds, scale factors, initial potentials, weights and
    biases does to the loss of a converted network; narrow ones, such as `fast_sigmoid(10.0)`, may
    even point the wrong way. Near the threshold a small change of the potential is passed on by the
    spike alone: the reset by subtraction removes the same change from the potential.

    Source: Wu et al. 2018, "Spatio-temporal backpropagation".

    Args:
        width: positive; equal widths give the same function, so that nothing is compiled again.

    Raises:
        ValueError: the width is not positive and finite.

    Example:
        >>> import jax.numpy as jnp, jaxsnn
        >>> jaxsnn.boxcar(1.0)(jnp.array([-0.75, -0.25, 0.25])).tolist()
        [0.0, 1.0, 1.0]
    """
    if not 0 < width < inf:
        raise ValueError(f"width={width}; the width of a surrogate must be positive and finite.")
    return _boxcar(float(width))


@lru_cache
def _boxcar(width: float) -> Callable[[Array], Array]:
    return lambda x: (abs(x) < width / 2).astype(x.dtype)


@typed
def fast_sigmoid(slope: Real = 10.0) -> Callable[[Array], Array]:
    """Surrogate derivative `1 / (1 + slope·|x|)²`, with x = V/θ - 1.

    Source: Zenke and Ganguli 2018, "SuperSpike".

    Args:
        slope: positive; equal slopes give the same function, so that nothing is compiled again.

    Raises:
        ValueError: the slope is not positive and finite.

    Example:
        >>> import jaxsnn
        >>> jaxsnn.fast_sigmoid(10.0)(0.1)
        0.25
    """
    if not 0 < slope < inf:
        raise ValueError(f"slope={slope}; the slope of a surrogate must be positive and finite.")
    return _fast_sigmoid(float(slope))


@lru_cache
def _fast_sigmoid(slope: float) -> Callable[[Array], Array]:
    return lambda x: 1 / (1 + slope * abs(x)) ** 2


@typed
def step_function(surrogate: Callable[[Array], Array]) -> Spike:
    """The spike S = 1 where V ≥ θ, else 0, with the gradient of a smooth function.

    Forward it is the step, exactly. Backward dS = surrogate(x)·dx, with x = V/θ - 1, the distance
    to the threshold relative to it, so that weight form and threshold form have the same gradients.

    Args:
        surrogate: the derivative to be used, a function of x such as `boxcar()`. Equal
            functions give the same spike function, so that nothing is compiled again.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> spike = jaxsnn.step_function(jaxsnn.fast_sigmoid(10.0))
        >>> spike(jnp.array([0.9, 1.0]), jnp.ones(())).tolist()
        [0.0, 1.0]
        >>> float(jax.grad(spike)(jnp.array(1.0), jnp.array(1.0)))
        1.0
    """
    try:
        found = surrogate(jnp.zeros(1))
    except Exception as error:
        raise ValueError(
            f"surrogate={described(surrogate)} cannot be called as surrogate(x): {error}"
        ) from error
    if jnp.shape(found) != (1,):
        raise ValueError(
            f"surrogate={described(surrogate)} returned {described(found)} for an array of shape "
            "(1,); it must return one of the same shape."
        )
    return _step_function(surrogate)


@lru_cache
def _step_function(surrogate: Callable[[Array], Array]) -> Spike:
    @jax.custom_jvp
    def heaviside(potential: Array, threshold: Array) -> Array:
        return (potential >= threshold).astype(potential.dtype)

    heaviside.is_step = True  # type: ignore[attr-defined]

    @heaviside.defjvp
    def _(primals, tangents):
        potential, threshold = primals
        d_potential, d_threshold = tangents
        ratio = potential / threshold
        dx = (d_potential - ratio * d_threshold) / threshold
        return heaviside(potential, threshold), surrogate(ratio - 1) * dx

    return heaviside


def is_step(spike: Spike) -> bool:
    """Whether a spike function is known to be 1 where V ≥ θ, else 0: `step_function` made it.

    Example:
        >>> import jaxsnn
        >>> [jaxsnn.neurons.is_step(f) for f in (jaxsnn.neurons.heaviside, lambda v, theta: v)]
        [True, False]
    """
    return getattr(spike, "is_step", False)


heaviside: Spike = _step_function(_boxcar(1.0))


# -- The activation that neurons compute exactly in a few steps ------------------------------------


@typed
def clip_floor(x: Values, threshold: Numbers | nnx.Variable[Any], levels: Count = 4) -> Array:
    """A ReLU with a ceiling λ, rounded to multiples of λ/L: to train networks for a few steps.

        y = λ/L · floor(clip(x·L/λ + 1/2, 0, L))

    That is λ times the rate of a neuron with the threshold λ that starts at λ/2, receives x in each
    of L steps and is reset by subtraction. `read_network` reads it as what it is, and
    `balance_thresholds(network)` makes such neurons of it.

    The floor passes gradients as if it kept its input, so that λ can be learned with the weights:

        ∂y/∂x = 1,  ∂y/∂λ = (y - x)/λ     where -λ/2L < x < λ - λ/2L
        ∂y/∂x = 0,  ∂y/∂λ = 0 below, 1 above

    Source: Bu et al. 2022, "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency
    spiking neural networks".

    Args:
        x: what the neurons would receive.
        threshold: λ, positive: a number, or an array that broadcasts to x, such as one for each
            channel. It may be a parameter of the model.
        levels: L, at least 1: the number of steps to train for.

    Returns:
        y, of the shape of x.

    Raises:
        ValueError: the threshold is not positive and finite or does not broadcast to x, or there
            are no levels. A threshold that is traced is not looked at.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsnn import neurons
        >>> x = jnp.array([-0.5, 0.5, 0.75, 1.0, 9.0])
        >>> neurons.clip_floor(x, 2.0, levels=4).tolist()
        [0.0, 0.5, 1.0, 1.0, 2.0]
        >>> jax.vmap(jax.grad(neurons.clip_floor, 1), (0, None))(x, 2.0).tolist()
        [0.0, 0.0, 0.125, 0.0, 1.0]
    """
    if levels < 1:
        raise ValueError(f"levels={levels}; there must be at least 1.")
    x = jnp.asarray(x, jnp.result_type(float, x))
    try:
        values = jnp.asarray(threshold, x.dtype)
    except ValueError as error:
        raise ValueError(f"threshold={threshold!r}; it must be a number or an array.") from error
    if not all_true(lambda number: (number > 0) & (number < inf), values):
        raise ValueError(f"threshold={values}; it must be positive and finite.")
    try:
        values = _one_for_each(values, x.shape)
    except ValueError as error:
        raise ValueError(
            f"threshold of shape {values.shape}; it must broadcast to x, of shape {x.shape}."
        ) from error
    return _straight_through(x, values, int(levels))


def _one_for_each(threshold: Array, shape: tuple[int, ...]) -> Array:
    """The thresholds broadcast to a shape [B, ...].

    As a product with ones, since the gradient is then a product, too: the sum over all neurons and
    images takes XLA as long as the rest of a training's step, on CPUs.
    """
    if len(shape) < 2 or (threshold.ndim == len(shape) and threshold.shape[0] != 1):
        return jnp.broadcast_to(threshold, shape)
    of_one = jnp.broadcast_to(threshold, (1, *shape[1:])).reshape(1, -1)
    ones = jnp.ones((shape[0], 1), threshold.dtype)
    return jnp.matmul(ones, of_one, precision=jax.lax.Precision.HIGHEST).reshape(shape)


def _clip_floor(x: Array, threshold: Array, *, levels: int) -> Array:
    return threshold * (jnp.floor(jnp.clip(x * levels / threshold + 0.5, 0, levels)) / levels)


# A primitive of its own, so that it can be told from all other arithmetic in a model that is read.
_clip_floor_p = Primitive("clip_floor")
_clip_floor_p.def_impl(jax.jit(_clip_floor, static_argnames="levels"))
_clip_floor_p.def_abstract_eval(lambda x, threshold, *, levels: x)
batching.defbroadcasting(_clip_floor_p)
mlir.register_lowering(_clip_floor_p, mlir.lower_fun(_clip_floor, multiple_results=False))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _straight_through(x: Array, threshold: Array, levels: int) -> Array:
    return cast(Array, _clip_floor_p.bind(x, threshold, levels=levels))


@_straight_through.defjvp
def _(levels, primals, tangents):
    x, threshold = primals
    d_x, d_threshold = tangents
    y = _straight_through(x, threshold, levels)
    level = x * levels / threshold + 0.5
    within = d_x + (y - x) / threshold * d_threshold
    return y, jnp.where(level >= levels, d_threshold, jnp.where(level > 0, within, 0))
