"""From a trained ReLU network to a spiking one, in JAX.

A trained model goes through five rooms, and each can be used alone:

    model    --read_network-->           Network
    Network  --..._scales-->             one scale factor per layer
    Network  --balance_thresholds-->     SpikingNetwork
    images   --simulate-->               Simulation
    labels   --metrics, plotting-->      accuracy, latency, operations; pictures
"""

from jaxsnn import encoding, metrics, network, networks, neurons, readout
from jaxsnn.balancing import SpikingNetwork, balance_thresholds, normalize_weights
from jaxsnn.encoding import constant, poisson
from jaxsnn.network import Network
from jaxsnn.neurons import (
    fast_sigmoid,
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
