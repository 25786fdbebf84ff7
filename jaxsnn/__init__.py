"""From a trained ReLU network to a spiking one, in JAX.

A model, some images of its training set, and the rest follows:

    >>> import jax, jax.numpy as jnp, jaxsnn
    >>> images, labels = jax.random.uniform(jax.random.key(0), (8, 6)), jnp.zeros(8, int)
    >>> weights = jax.random.normal(jax.random.key(1), (6, 3))
    >>> model = lambda x: jax.nn.relu(x @ weights)  # or a model in Flax NNX or Linen

    >>> snn = jaxsnn.convert(model, images)
    >>> run = jaxsnn.simulate(snn, images, key=0, duration=0.032)
    >>> run.accuracy(labels).shape  # after every step
    (32,)
    >>> report = jaxsnn.report(snn, images, labels=labels)  # layer by layer, with advice

`convert` does three stages with settings that suit most models, and each can be used alone:

    model                    --read_network-->         Network
    Network, images          --percentile_scales-->    one scale factor for each layer
    Network, scale factors   --balance_thresholds-->   SpikingNetwork
    SpikingNetwork           --quantize-->             FixedPointNetwork, if you like
    SpikingNetwork, images   --simulate-->             Simulation
    Simulation, labels       --accuracy, report-->     accuracy, latency, operations; figures

What else there is:

    other scale factors      data_based_scales, model_based_scales, locally_balanced_scales, ...
    accuracy in a few steps  scales_for, correct_biases, calibrate, merge_poolings, ceiling_scales
    files and other tools    save, load, to_nir, from_nir, to_events, from_events
    grids of settings        Grid, sweep, best, save_sweep, load_sweep
    input, reset, readout    encoding, neurons, readout, stopping
    figures and costs        plotting, metrics
    data, networks, training load_dataset, networks, training
    how it is computed       engines
    for an issue             versions
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from jaxsnn import encoding, engines, metrics, network, neurons, readout, stopping
from jaxsnn.conversion.balancing import SpikingNetwork, balance_thresholds, normalize_weights
from jaxsnn.conversion.convert import convert
from jaxsnn.conversion.fixed_point import FixedPoint, FixedPointNetwork, quantize
from jaxsnn.conversion.scaling import (
    ceiling_scales,
    data_based_scales,
    data_based_scales_of_authors_code,
    largest_activations,
    locally_balanced_scales,
    model_based_scales,
    percentile_scales,
)
from jaxsnn.encoding import constant, poisson
from jaxsnn.network import Network, merge_poolings
from jaxsnn.neurons import (
    boxcar,
    fast_sigmoid,
    integrate_and_fire,
    reset_by_subtraction,
    reset_to_zero,
    step_function,
)
from jaxsnn.reading import ReadingError, read_network
from jaxsnn.simulation import Simulation, simulate

if TYPE_CHECKING:
    from jaxsnn import networks, plotting, sweeps, training
    from jaxsnn.calibration import calibrate, correct_biases, scales_for
    from jaxsnn.datasets import Dataset, DatasetError, load_dataset
    from jaxsnn.diagnosis import Report, report
    from jaxsnn.interchange.events import from_events, to_events
    from jaxsnn.interchange.files import load, save
    from jaxsnn.interchange.nir_export import to_nir
    from jaxsnn.interchange.nir_import import from_nir
    from jaxsnn.support.machine import versions
    from jaxsnn.sweeps import Grid, best, load_sweep, save_sweep, sweep

    __version__: str

# What a conversion and its simulation do without.
_LOADED_LATER = {
    "plotting": ("jaxsnn.plotting", None),
    "sweeps": ("jaxsnn.sweeps", None),
    **{
        name: ("jaxsnn.sweeps", name)
        for name in ("Grid", "best", "load_sweep", "save_sweep", "sweep")
    },
    **{
        name: ("jaxsnn.calibration", name) for name in ("calibrate", "correct_biases", "scales_for")
    },
    "Report": ("jaxsnn.diagnosis", "Report"),
    "report": ("jaxsnn.diagnosis", "report"),
    **{name: ("jaxsnn.interchange.files", name) for name in ("load", "save")},
    **{name: ("jaxsnn.interchange.events", name) for name in ("from_events", "to_events")},
    "networks": ("jaxsnn.networks", None),
    "training": ("jaxsnn.training", None),
    "Dataset": ("jaxsnn.datasets", "Dataset"),
    "DatasetError": ("jaxsnn.datasets", "DatasetError"),
    "load_dataset": ("jaxsnn.datasets", "load_dataset"),
    "from_nir": ("jaxsnn.interchange.nir_import", "from_nir"),
    "to_nir": ("jaxsnn.interchange.nir_export", "to_nir"),
    "versions": ("jaxsnn.support.machine", "versions"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("jaxsnn-conversion")
    if name not in _LOADED_LATER:
        raise AttributeError(f"module 'jaxsnn' has no attribute {name!r}")
    module, attribute = _LOADED_LATER[name]
    found = import_module(module)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


__all__ = [
    "Dataset",
    "DatasetError",
    "FixedPoint",
    "FixedPointNetwork",
    "Grid",
    "Network",
    "ReadingError",
    "Report",
    "Simulation",
    "SpikingNetwork",
    "balance_thresholds",
    "best",
    "boxcar",
    "calibrate",
    "ceiling_scales",
    "constant",
    "convert",
    "correct_biases",
    "data_based_scales",
    "data_based_scales_of_authors_code",
    "encoding",
    "engines",
    "fast_sigmoid",
    "from_events",
    "from_nir",
    "integrate_and_fire",
    "largest_activations",
    "load",
    "load_dataset",
    "load_sweep",
    "locally_balanced_scales",
    "merge_poolings",
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
    "report",
    "reset_by_subtraction",
    "reset_to_zero",
    "save",
    "save_sweep",
    "scales_for",
    "simulate",
    "step_function",
    "stopping",
    "sweep",
    "sweeps",
    "to_events",
    "to_nir",
    "training",
    "versions",
]
