"""Scale factors for a given number of steps: some are tried, and none is learned."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from jaxsnn import encoding, neurons
from jaxsnn.calibration.outputs import check_counts, last_scores, relu_outputs, runs
from jaxsnn.conversion.balancing import balance_thresholds
from jaxsnn.conversion.scaling import (
    Per,
    Scales,
    ScalesOfChannels,
    multiplied,
    percentile_scales,
)
from jaxsnn.network import Network
from jaxsnn.support.progress import progress_bar
from jaxsnn.support.typed import Count, Images, Key, Numbers, Real, typed


@typed
def scales_for(
    network: Network,
    images: Images,
    *,
    steps: Count,
    percentiles: Sequence[Real] = (99.0, 99.9, 100.0),
    multipliers: Sequence[Real] = (0.5, 0.6, 0.75, 0.9, 1.0),
    per: Per = "channel",
    initial_potential: Numbers = 0.5,
    reset: neurons.Reset = neurons.reset_by_subtraction,
    encode: encoding.Encoding = encoding.constant,
    key: Key = 0,
    batch_size: Count = 500,
    progress: bool | None = None,
) -> Scales | ScalesOfChannels:
    """Scale factors with which few steps are enough: the best of some, without learning.

        λₗ = multiplier · the percentile of all activations of layer l

    Each pair of a percentile and a multiplier is simulated on the calibration images for so many
    steps, and the one is taken whose scores agree best with the outputs of the ReLU network, by
    the mean over images of their correlation over classes. In one or two steps a rate has few
    values, and a small λ, which clips the largest activations, rounds the others less; the more
    steps, the less is it worth to clip.

    Source: the percentiles of Rueckauer et al. 2017. On the networks of benchmarks/architectures.py
    the correlation chose as well as the squared error, the divergence of class probabilities and
    the share of equal classes, or better, and needs no scale of the scores.

    Args:
        network: the ReLU network.
        images: calibration images `[N, ...]`, such as a few hundred of the training set.
        steps: how many steps the network is to run, each with a full rate.
        percentiles: those to try, in percent.
        multipliers: those to try, above 0 and at most 1.
        per: "channel" or "layer": what has a scale factor of its own.
        initial_potential: as for `balance_thresholds`, like reset and encode: how the network is to
            be run.
        reset: what becomes of the membrane potential after a spike.
        encode: how pixels drive the first layer.
        key: as for `simulate`, for encodings that draw at random.
        batch_size: how many images are simulated at a time.
        progress: whether to show a bar; by default where there is more than a second of work.

    Returns:
        Scale factors as of `percentile_scales`. Layers that were trained with
        `neurons.clip_floor` keep the thresholds that they have learned.

    Raises:
        ValueError: as `percentile_scales`, if no percentile can be taken; there is nothing to try;
            or a multiplier is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(
        ...     lambda x: jax.nn.relu(x) @ jnp.ones((2, 1)), jnp.zeros((1, 2)))
        >>> images = jax.random.uniform(jax.random.key(0), (50, 2))
        >>> few, many = (jaxsnn.scales_for(network, images, steps=n) for n in (1, 64))
        >>> bool(few[0].max() < many[0].max())
        True
    """
    check_counts(steps=steps, batch_size=batch_size)
    _check_choices(percentiles, multipliers)
    pixels = network.images_on_host(images)
    balanced = partial(
        balance_thresholds, initial_potential=initial_potential, reset=reset, encode=encode
    )
    how = {"per": per, "encode": encode, "batch_size": batch_size, "progress": progress}
    bases = _scales_of_percentiles(network, pixels, percentiles, how)
    candidates = [multiplied(network, base, by) for base in bases for by in multipliers]
    if len(candidates) == 1 or all(layer.scale_is_trained for layer in network.layers[:-1]):
        return candidates[0]
    targets, given = relu_outputs(network, pixels), (pixels, steps, key, batch_size)
    with progress_bar(
        progress, total=len(candidates) * len(pixels), desc="scales", unit="image"
    ) as bar:
        agreements = [
            _agreement(last_scores(runs(balanced(network, scales), *given, bar.update)), targets)
            for scales in candidates
        ]
    return candidates[int(np.argmax(agreements))]


def _check_choices(percentiles: Sequence[float], multipliers: Sequence[float]) -> None:
    for name, values in (("percentiles", percentiles), ("multipliers", multipliers)):
        if not len(values):
            raise ValueError(f"{name} is empty, so that there is nothing to try.")
    for value in multipliers:
        if not 0 < value <= 1:
            raise ValueError(
                f"multipliers={tuple(multipliers)}: {value:g} is out of range; each must be above "
                "0 and at most 1. Percentiles say what is multiplied; 100 is the largest."
            )


def _scales_of_percentiles(
    network: Network, pixels: np.ndarray, percentiles: Sequence[float], how: dict[str, Any]
) -> list[Scales | ScalesOfChannels]:
    """Scale factors of those percentiles that are not zero in a whole layer."""
    found, refused = [], None
    for percentile in percentiles:
        try:
            found.append(percentile_scales(network, pixels, percentile=percentile, **how))
        except ValueError as error:
            refused = error
    if not found:
        assert refused is not None
        raise refused
    return found


def _agreement(scores: np.ndarray, outputs: np.ndarray) -> float:
    """The mean over images of the correlation over classes; with a single output, over images."""
    rows = [values.astype(np.float64) for values in (scores, outputs)]
    if outputs.shape[1] == 1:
        rows = [values.T for values in rows]
    x, y = (values - values.mean(1, keepdims=True) for values in rows)
    sizes = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return float(np.mean((x * y).sum(1) / np.where(sizes > 0, sizes, 1)))
