"""From a trained ReLU network to a spiking one, in JAX.

A trained model goes through five rooms, and each can be used alone:

    model                    --read_network-->         Network
    Network, images          --data_based_scales-->    one scale factor for each layer
    Network, scale factors   --balance_thresholds-->   SpikingNetwork
    SpikingNetwork, images   --simulate-->             Simulation
    Simulation, labels       --accuracy, plotting-->   accuracy, latency, operations; pictures

and `sweep` takes a network, images, labels and a grid of settings through the last three at once.
"""

from jaxsnn import (
    metrics,
    network,
    networks,
    neurons,
    plotting,
    readout,
    stopping,
    sweeps,
    training,
)
from jaxsnn.balancing import SpikingNetwork, balance_thresholds, normalize_weights
from jaxsnn.datasets import Dataset, DatasetError, load_dataset
from jaxsnn.encoding import constant, poisson
from jaxsnn.fixed_point import FixedPoint, FixedPointNetwork, quantize
from jaxsnn.network import Network
from jaxsnn.neurons import (
    fast_sigmoid,
    integrate_and_fire,
    reset_by_subtraction,
    reset_to_zero,
    step_function,
)
from jaxsnn.reading import ReadingError, read_network
from jaxsnn.scaling import (
    data_based_scales,
    data_based_scales_of_authors_code,
    largest_activations,
    model_based_scales,
    percentile_scales,
)
from jaxsnn.simulation import Simulation, simulate
from jaxsnn.sweeps import Grid, best, load_sweep, save_sweep, sweep

__all__ = [
    "Dataset",
    "DatasetError",
    "FixedPoint",
    "FixedPointNetwork",
    "Grid",
    "Network",
    "ReadingError",
    "Simulation",
    "SpikingNetwork",
    "balance_thresholds",
    "best",
    "constant",
    "data_based_scales",
    "data_based_scales_of_authors_code",
    "fast_sigmoid",
    "integrate_and_fire",
    "largest_activations",
    "load_dataset",
    "load_sweep",
    "metrics",
    "model_based_scales",
    "network",
    "networks",
    "neurons",
    "normalize_weights",
    "percentile_scales",
    "plotting",
    "poisson",
    "quantize",
    "read_network",
    "readout",
    "reset_by_subtraction",
    "reset_to_zero",
    "save_sweep",
    "simulate",
    "step_function",
    "stopping",
    "sweep",
    "sweeps",
    "training",
]
