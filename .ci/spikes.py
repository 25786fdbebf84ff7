"""Prints a digest of the spikes of two random networks, to compare versions of the packages."""

import hashlib

import jax
import numpy as np

import jaxsnn

rng = np.random.default_rng(0)
images = rng.random((12, 12, 12, 1)).astype(np.float32)
kernel = rng.normal(0, 0.4, (3, 3, 1, 8)).astype(np.float32)
first, second, last = (
    rng.normal(0, scale, shape).astype(np.float32)
    for scale, shape in [(0.2, (144, 50)), (0.3, (50, 10)), (0.2, (200, 10))]
)


def dense(x):
    """Two dense layers."""
    return jax.nn.relu(jax.nn.relu(x.reshape(len(x), -1) @ first) @ second)


def convolutional(x):
    """A convolution, a pooling with neurons and a dense layer."""
    layout = ("NHWC", "HWIO", "NHWC")
    x = jax.nn.relu(jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", None, None, layout))
    sums = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jax.nn.relu(jax.nn.relu(sums / 4).reshape(len(x), -1) @ last)


for model in (dense, convolutional):
    network = jaxsnn.read_network(model, images[:1])
    snn = jaxsnn.balance_thresholds(network, jaxsnn.data_based_scales(network, images))
    variants = {"float32": (snn, "scan")}
    for bits in (8, 16):
        for engine in ("scan", "events"):
            variants[f"{bits} bits, {engine}"] = (jaxsnn.quantize(snn, bits=bits), engine)
    for name, (spiking, engine) in variants.items():
        run = jaxsnn.simulate(spiking, images, key=7, duration=0.1, engine=engine)
        counts = [np.asarray(count) for count in run.spike_counts]
        arrays = [np.asarray(run.predictions), *counts]
        digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
        spikes = int(sum(count.sum() for count in counts))
        print(f"{model.__name__}, {name}: {spikes} spikes, {digest}")
