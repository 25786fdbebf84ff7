"""The oracle: integrate-and-fire written from the equations in plain NumPy, one loop a step.

It shares no code with the library. Layers are Python functions of one sample.
"""

import numpy as np


def dense(kernel):
    return lambda x: np.asarray([sum(x * column) for column in kernel.T])


def convolution(kernel, stride=1, pad=0):
    """Kernel [height, width, in, out] over one image [height, width, in]."""
    height, width, _, maps = kernel.shape

    def apply(image):
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        rows = range(0, padded.shape[0] - height + 1, stride)
        columns = range(0, padded.shape[1] - width + 1, stride)
        return np.asarray(
            [
                [
                    [
                        (padded[row : row + height, column : column + width] * kernel[..., m]).sum()
                        for m in range(maps)
                    ]
                    for column in columns
                ]
                for row in rows
            ]
        )

    return apply


def average_pooling(size):
    def apply(image):
        rows, columns = (length // size for length in image.shape[:2])
        return np.asarray(
            [
                [
                    image[r * size : (r + 1) * size, c * size : (c + 1) * size].mean((0, 1))
                    for c in range(columns)
                ]
                for r in range(rows)
            ]
        )

    return apply


def flatten(image):
    return image.reshape(-1)


def relu_activations(layers, image):
    """Activations of every layer for one image; a layer is a list of functions."""
    activations, x = [], image
    for layer in layers:
        for function in layer:
            x = function(x)
        x = np.maximum(x, 0)
        activations.append(x)
    return activations


def simulate(
    layers,
    inputs,
    thresholds,
    amplitudes,
    *,
    reset="zero",
    refractory_steps=0,
    initial_potential=0.0,
):
    """Spikes of every layer for one sample, from its inputs [T, ...]: a list of [T, ...]."""
    shapes = [a.shape for a in relu_activations(layers, inputs[0])]
    potentials = [np.full(shape, initial_potential, np.float64) for shape in shapes]
    free_from = [np.zeros(shape, int) for shape in shapes]
    spikes = [np.zeros((len(inputs), *shape)) for shape in shapes]
    for t, x in enumerate(inputs):
        for index, layer in enumerate(layers):
            for function in layer:
                x = function(x)
            # Input is ignored until the refractory period has passed.
            ready = free_from[index] <= t
            potentials[index] += np.where(ready, x, 0)
            fired = (potentials[index] >= thresholds[index]) & ready
            if reset == "zero":
                potentials[index][fired] = 0
            else:
                potentials[index][fired] -= np.broadcast_to(thresholds[index], fired.shape)[fired]
            free_from[index][fired] = t + refractory_steps
            spikes[index][t] = fired
            x = fired * amplitudes[index]
    return spikes


def predictions(output_spikes):
    """Class after every step: most spikes so far, ties to the lowest, -1 while there are none."""
    counts = np.cumsum(output_spikes, 0)
    return np.where(counts.max(1) > 0, counts.argmax(1), -1)
