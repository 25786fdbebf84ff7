"""From a trained ReLU network to a spiking one, in JAX.

A trained model goes through five stages, and each can be used alone:

    model                    --read_network-->         Network
    Network, images          --data_based_scales-->    one scale factor for each layer
    Network, scale factors   --balance_thresholds-->   SpikingNetwork
    SpikingNetwork, images   --simulate-->             Simulation
    Simulation, labels       --accuracy, plotting-->   accuracy, latency, operations; figures

`convert` goes from the model to the SpikingNetwork with settings that suit most models, `report`
compares the two layer by layer, and `sweep` takes a network, images, labels and a grid of settings
through the last three at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jaxsnn import engines, metrics, network, neurons, readout, stopping
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
    from jaxsnn.sweeps import Grid, best, load_sweep, save_sweep, sweep

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
}


def __getattr__(name: str) -> Any:
    if name not in _LOADED_LATER:
        raise AttributeError(f"module 'jaxsnn' has no attribute {name!r}")
    module, attribute = _LOADED_LATER[name]
    found = import_module(module)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LOADED_LATER})


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
]
