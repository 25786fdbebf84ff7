"""Digests of spikes, states and sweep counts, to be the same after every change of the structure.

`python tests/golden.py` prints those of the installed library; golden.json has those of version
0.4.0. All sums are exact (dyadic rationals and integers), so that they hold on every machine.
"""

import hashlib
import json

import jax
import numpy as np

import jaxsnn
from jaxsnn import stopping

import models

NETWORKS = {"dense": models.dense_network, "convolutions": models.convolution_network}
ENGINES = ((None, "scan"), (8, "scan"), (8, "events"))
RUNS = {
    "to zero": {},
    "by subtraction": {"reset": jaxsnn.reset_by_subtraction, "max_rate": 700.0},
    "refractory": {"refractory_period": 0.003, "initial_potential": 0.125},
    "stopped": {"stop": stopping.margin(2), "samples": np.arange(40, 45)},
    "first spike": {"read": jaxsnn.readout.first_spike, "key": jax.random.key(5)},
}


def digest(tree):
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(leaf)
        found.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()[:16]


def of_run(run):
    state = run.state
    return digest(
        [
            run.predictions,
            run.first_spike_prediction,
            run.first_spike_time,
            run.spike_counts,
            run.input_spike_counts,
            run.synaptic_operations,
            run.exit_time,
            state.step,
            state.neurons,
            state.exit_step,
        ]
    )


def made(name):
    rng = np.random.default_rng(20150712)
    network, _ = NETWORKS[name](rng)
    return network, models.dyadic_images(rng, 5, *network.input_shape), rng.integers(0, 4, 5)


def digests():
    """A digest for each of the golden runs."""
    found = {}
    for name in NETWORKS:
        network, images, labels = made(name)
        snn = jaxsnn.balance_thresholds(network, 0.5)
        for bits, engine in ENGINES:
            case = f"{name}, {bits or 'float'}, {engine}"
            exact = snn if bits is None else jaxsnn.quantize(snn, bits=bits)
            for run, options in RUNS.items():
                if name == "convolutions" and run not in ("by subtraction", "refractory"):
                    continue
                options = {"key": 3, "duration": 0.012, "engine": engine, **options}
                found[f"{case}, {run}"] = of_run(jaxsnn.simulate(exact, images, **options))
            if name == "convolutions":
                continue
            options = {"key": 3, "duration": 0.006, "engine": engine}
            state = jaxsnn.simulate(exact, images, **options).state
            resumed = jaxsnn.simulate(exact, images, **options, state=state)
            found[f"{case}, resumed"] = of_run(resumed)
            arithmetic = None if bits is None else jaxsnn.FixedPoint(bits)
            found[f"{case}, sweep"] = of_sweep(network, images, labels, arithmetic, engine)
    return found


def of_sweep(network, images, labels, arithmetic, engine):
    grid = jaxsnn.Grid(
        scales={"one": 1.0, "half": 0.5},
        threshold=[0.5, 1.0],
        max_rate=[1000, 300],
        refractory_period=[0.0, 0.003],
        seed=[0, 1],
        duration=0.01,
    )
    data = jaxsnn.sweep(network, images, labels, grid, arithmetic=arithmetic, engine=engine)
    return digest([data[name].values for name in data.data_vars if name != "relu_accuracy"])


if __name__ == "__main__":
    print(json.dumps(digests(), indent=1))
