"""From a trained model to a spiking network in one call, with settings that suit most models."""

from __future__ import annotations

from typing import Any, Literal

from jaxsnn import encoding, neurons
from jaxsnn.conversion.balancing import SpikingNetwork, balance_thresholds
from jaxsnn.conversion.scaling import percentile_scales
from jaxsnn.network import Network, warn_of_bytes
from jaxsnn.reading import Model, read_network
from jaxsnn.support.typed import Count, Images, Numbers, Real, typed


@typed
def convert(
    model: Model | Network,
    images: Images,
    *,
    output: int | str | None = None,
    steps: Count | None = None,
    percentile: Real | None = None,
    per: Literal["layer", "channel"] = "channel",
    initial_potential: Numbers = 0.5,
    reset: neurons.Reset = neurons.reset_by_subtraction,
    encode: encoding.Encoding = encoding.constant,
    batch_size: Count = 500,
    progress: bool | None = None,
) -> SpikingNetwork:
    """Read a model, scale its layers by calibration images, and balance its thresholds.

    The defaults are what is known to work for models of all kinds (Rueckauer et al. 2017; Bu et al.
    2022 for the initial potential): a percentile of each channel, potentials that start at half
    the threshold, the reset by subtraction, and pixels as constant currents. They belong to the
    network, and `simulate` follows them. Those of Diehl et al. 2015 are the defaults of the single
    stages: `read_network`, `data_based_scales`, `balance_thresholds`.

    With `steps`, the scale factors are chosen for so many by trying some (`scales_for`), which for
    less than about ten steps makes most networks more accurate.

    Layers that were trained with `neurons.clip_floor` get the thresholds that they have learned,
    and no percentile.

    Args:
        model: as for `read_network`, or a network that was read.
        images: calibration images `[N, ...]`, such as a few hundred of the training set.
        output: as for `read_network`: which array to read of a model that returns several.
        steps: how many steps the network is to run, each with a full rate; by default many.
        percentile: of the activations, in percent, what others call mode="99.9%", and by default
            that; 100, the largest, lets rates and scores approach those of the model without an
            error that stays.
        per: "channel" or "layer": what has a scale factor of its own.
        initial_potential: as a fraction of the threshold.
        reset: `reset_by_subtraction`, `reset_to_zero` or a function of yours.
        encode: `constant`, `poisson` or a function of yours.
        batch_size: how many images are computed at a time.
        progress: whether to show a bar; by default where there is more than a second of work.

    Returns:
        The spiking network.

    Warns:
        UserWarning: constant currents are whole numbers up to 255; was the model trained on such?

    Raises:
        ReadingError: the model cannot be read; the message says where and why.
        ValueError: as `percentile_scales`, or both steps and a percentile are given.

    Example:
        >>> import jax.numpy as jnp, jaxsnn
        >>> from flax import nnx
        >>> model = nnx.Sequential(
        ...     nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 3, rngs=nnx.Rngs(1)))
        >>> images = jnp.linspace(0, 1, 40).reshape(10, 4)
        >>> snn = jaxsnn.convert(model, images)
        >>> run = jaxsnn.simulate(snn, images, key=0, duration=0.032)
        >>> run.scores.shape
        (32, 10, 3)
    """
    network = model
    if not isinstance(network, Network):
        network = read_network(network, images, output=output)
    if encode is encoding.constant:
        warn_of_bytes(images)
    how: dict[str, Any] = {"per": per, "encode": encode, "batch_size": batch_size}
    if steps is None:
        percentile = 99.9 if percentile is None else percentile
        scales = percentile_scales(network, images, percentile=percentile, progress=progress, **how)
    elif percentile is not None:
        raise ValueError(
            f"percentile={percentile:g} and steps={steps}: with steps, percentiles are tried. Give "
            "one of the two, or jaxsnn.scales_for(..., percentiles=[...]) to balance_thresholds."
        )
    else:
        from jaxsnn.calibration import scales_for

        how |= {"initial_potential": initial_potential, "reset": reset}
        scales = scales_for(network, images, steps=steps, progress=progress, **how)
    return balance_thresholds(
        network, scales, initial_potential=initial_potential, reset=reset, encode=encode
    )
