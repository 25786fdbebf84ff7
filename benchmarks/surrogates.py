"""Which surrogate derivatives make gradients that point the right way?

For trained networks: the cosine between surrogate gradients of the loss and central differences of
the loss of the hard network itself, over layers, for a change of all neurons of a layer in one of
`CHANGES`. Scores are taken after `steps` steps of constant currents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
import zoo
from common import DT, RESULTS, new_results, save

import jaxsnn
from jaxsnn.network import Network

# How far differences reach: of logarithms, and of fractions of the threshold.
CHANGES = {
    "scale factors": 0.25,
    "thresholds": 0.25,
    "initial potentials": 0.25,
    "weights": 0.15,
    "biases": 0.1,
}
SURROGATES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "boxcar, width 1": jaxsnn.boxcar(1.0),
    "boxcar, width 2": jaxsnn.boxcar(2.0),
    "triangle": lambda x: jnp.maximum(1 - abs(x), 0),
    "fast sigmoid, slope 4": jaxsnn.fast_sigmoid(4.0),
    "fast sigmoid, slope 10": jaxsnn.fast_sigmoid(10.0),
}
RESETS = {
    "by subtraction": jaxsnn.reset_by_subtraction,
    "to zero": jaxsnn.reset_to_zero,
}
# Percentile of λ and the initial potential.
SETTINGS = ((99.0, 0.5), (100.0, 0.0))

Moves = Mapping[str, jax.Array]


def detached(reset: jaxsnn.neurons.Reset) -> jaxsnn.neurons.Reset:
    """The reset without a gradient through the spikes."""
    return lambda v, spikes, theta: reset(v, jax.lax.stop_gradient(spikes), theta)


def changed(snn: jaxsnn.SpikingNetwork, fraction: float, by: Moves) -> jaxsnn.SpikingNetwork:
    """The network with one number of each layer changed; poolings of maxima follow their source."""
    layers = snn.network.layers

    def of_layer(name: str, index: int) -> jax.Array:
        layer = layers[index]
        return by[name][layer.connection.source if layer.pools_maxima else index]

    thresholds, starts = list(snn.thresholds), [jnp.zeros(())] * len(layers)
    for index, layer in enumerate(layers):
        if layer.spiking:
            move = of_layer("scale factors", index) + of_layer("thresholds", index)
            thresholds[index] = thresholds[index] * jnp.exp(move)
            start = fraction + by["initial potentials"][index]
            starts[index] = start * thresholds[index]
    amplitudes = [
        [
            a if a is None else a * jnp.exp(of_layer("scale factors", part.source))
            for a, part in zip(row, layer.all_connections)
        ]
        for row, layer in zip(snn.amplitudes, layers)
    ]
    new = []
    for index, layer in enumerate(layers):
        if layer.weighted and not layer.pools_maxima:
            unit = jnp.mean(snn.thresholds[index]) if layer.spiking else 1.0
            bias = 0.0 if layer.bias is None else layer.bias
            layer = layer.times(jnp.exp(by["weights"][index]))
            layer = layer.with_bias(bias + by["biases"][index] * unit)
        new.append(layer)
    network = Network(tuple(new), snn.network.input_shape)
    return jaxsnn.SpikingNetwork(network, thresholds, amplitudes, starts, snn.reset, snn.encode)


def cosines(
    snn: jaxsnn.SpikingNetwork, fraction: float, images: Any, labels: Any, steps: int
) -> dict[str, dict[str, float]]:
    """For each surrogate and change the cosine of gradient and differences."""
    count = len(snn.network.layers)
    nothing = {name: jnp.zeros(count) for name in CHANGES}

    def loss(by: Moves, **how: Any) -> jax.Array:
        net = changed(snn, fraction, by)
        run = jaxsnn.simulate(net, images, key=0, duration=steps * DT, dt=DT, engine="scan", **how)
        logits = run.scores[-1] / steps
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    hard = jax.jit(loss)
    differences = {
        name: np.array(
            [hard({**nothing, name: step}) - hard({**nothing, name: -step}) for step in steps_of]
        )
        for name, reach in CHANGES.items()
        for steps_of in [reach * np.eye(count, dtype=np.float32)]
    }
    found = {}
    for name, surrogate in SURROGATES.items():
        for ending, reset in (("", snn.reset), (", detached", detached(snn.reset))):
            spike = jaxsnn.step_function(surrogate)
            how = {"spike": spike, "reset": reset}
            gradient = jax.jit(jax.grad(lambda by, how=how: loss(by, **how)))(nothing)
            found[name + ending] = {
                change: _cosine(np.asarray(gradient[change]), differences[change])
                for change in CHANGES
            }
    return found


def _cosine(one: np.ndarray, two: np.ndarray) -> float:
    size = np.linalg.norm(one) * np.linalg.norm(two)
    return round(float(one @ two / size), 3) if size else 0.0


def main(
    names: tuple[str, ...] = ("CNN of Flax's tutorial", "ResNet"),
    images: int = 100,
    steps: int = 8,
) -> None:
    """Measure, print, and write results/surrogates.json.

    Args:
        names: networks of zoo.py.
        images: how many images the loss is of.
        steps: time steps.
    """
    train, _ = zoo.mnist()
    results = new_results(images=images, steps=steps)
    results["rows"] = []
    for name in names:
        calibration = train.images[:500]
        network = jaxsnn.read_network(zoo.trained(name), calibration)
        for reset_name, reset in RESETS.items():
            for percentile, fraction in SETTINGS:
                scales = jaxsnn.percentile_scales(
                    network,
                    calibration,
                    percentile=percentile,
                    per="channel",
                    encode=jaxsnn.constant,
                    progress=False,
                )
                snn = jaxsnn.balance_thresholds(
                    network, scales, reset=reset, encode=jaxsnn.constant
                )
                found = cosines(
                    snn, fraction, train.images[-images:], train.labels[-images:], steps
                )
                row = {"network": name, "reset": reset_name, "percentile": percentile}
                results["rows"].append({**row, "initial_potential": fraction, "cosines": found})
                print(*row.values(), flush=True)
                for surrogate, values in found.items():
                    print(f"  {surrogate:35}", values, flush=True)
                save(results, RESULTS / "surrogates.json")


if __name__ == "__main__":
    tyro.cli(main)
