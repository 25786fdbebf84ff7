"""What `reproduce` does with each data set: the networks, how they are converted, and for how long.

On MNIST it is the experiment of Diehl et al. 2015, beside the settings of `jaxsnn.convert`; on
CIFAR-10 two deeper networks are converted with the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from jaxsnn.conversion import scaling
from jaxsnn.conversion.balancing import SpikingNetwork, balance_thresholds
from jaxsnn.conversion.convert import convert
from jaxsnn.network import Network
from jaxsnn.paper.figures import draw_raster, draw_rates
from jaxsnn.reading import read_network

Conversion = Callable[[nnx.Module, ArrayLike], SpikingNetwork]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is done with one data set.

    Attributes:
        title: what messages call the data set.
        networks: what the command line calls each network, and what tables do.
        recipes: for each kind of training the names of `RECIPES`, with {} for the network.
        conversions: (model, calibration images) ↦ spiking network, by their names in the table.
        further_conversions: what `full` adds to them.
        calibration: how many training images the conversions look at; by default all.
        duration: simulated time in seconds.
        full_duration: simulated time in seconds with `full`.
        milliseconds: the times whose accuracies the table has.
        images_at_once: how many images are simulated before their spikes are summed up.
        drawn: the conversion of which there are figures.
        figures: functions that draw them, by the names of the files.
        settings: what results.json says of the conversions and the simulation.
    """

    title: str
    networks: Mapping[str, str]
    recipes: Mapping[str, str]
    conversions: Mapping[str, Conversion]
    further_conversions: Mapping[str, Conversion]
    calibration: int | None = None
    duration: float
    full_duration: float
    milliseconds: tuple[int, ...]
    images_at_once: int
    drawn: str
    figures: Mapping[str, Callable[..., Any]]
    settings: Mapping[str, Any]

    def conversions_of(self, full: bool) -> dict[str, Conversion]:
        """All conversions, with the further ones or without."""
        return {**self.conversions, **(self.further_conversions if full else {})}


def _balanced(rule: Callable[[Network, ArrayLike], Any]) -> Conversion:
    """The paper's conversion with the scale factors of a rule."""

    def conversion(model: nnx.Module, images: ArrayLike) -> SpikingNetwork:
        network = read_network(model, images)
        return balance_thresholds(network, rule(network, images))

    return conversion


def _converted(model: nnx.Module, images: ArrayLike) -> SpikingNetwork:
    """The settings of today, with scale factors from a part of the images."""
    return convert(model, np.asarray(images)[:_CALIBRATION])


_CALIBRATION = 2_000

EXPERIMENTS = {
    "mnist": Experiment(
        title="MNIST",
        networks={"fc": "FullyConnected", "conv": "ConvNet"},
        recipes={"modern": "{}-modern", "authors": "{}-authors"},
        conversions={
            "unnormalised": _balanced(lambda network, images: 1.0),
            "model-based": _balanced(lambda network, images: scaling.model_based_scales(network)),
            "data-based": _balanced(scaling.data_based_scales),
            "convert": _converted,
        },
        further_conversions={"99.9th percentile": _balanced(scaling.percentile_scales)},
        duration=0.1,
        full_duration=0.5,
        milliseconds=(6, 10, 20, 40, 100, 500),
        images_at_once=2_000,  # their memory is used again
        drawn="data-based",
        figures={"raster": draw_raster, "rates": draw_rates},
        settings={
            "max_rate": 1000.0,
            "encoding": "poisson",
            "reset": "to zero",
            "convert": "constant currents, reset by subtraction, half the thresholds at the start",
        },
    ),
    "cifar10": Experiment(
        title="CIFAR-10",
        networks={"resnet20": "ResNet-20", "vgg11": "VGG-11"},
        recipes={"modern": "{}-cifar10"},
        conversions={"99.9th percentile": convert},
        further_conversions={"largest activations": partial(convert, percentile=100)},
        calibration=_CALIBRATION,
        duration=0.256,
        full_duration=0.512,
        milliseconds=(16, 32, 64, 128, 256, 512),
        images_at_once=500,  # ResNet-20 has 188,000 neurons
        drawn="99.9th percentile",
        figures={"rates": draw_rates},
        settings={
            "max_rate": 1000.0,
            "encoding": "constant",
            "reset": "by subtraction",
            "dataset": "cifar10",
            "initial_potential": 0.5,
            "scale_factors": "per channel",
        },
    ),
}
