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


def shift(bias):
    return lambda x: x + bias


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
    received=None,
):
    """Spikes of every layer for one sample, from its inputs [T, ...]: a list of [T, ...].

    A layer with an infinite threshold accumulates. The initial potential is a number, or a list
    with one for each layer. To a list `received`, what the outputs have received in all, and
    started with, is appended after every step.
    """
    shapes = [a.shape for a in relu_activations(layers, inputs[0])]
    starts = initial_potential
    starts = starts if isinstance(starts, list) else [starts] * len(shapes)
    potentials = [np.full(shape, v, np.float64) for shape, v in zip(shapes, starts, strict=True)]
    free_from = [np.zeros(shape, int) for shape in shapes]
    spikes = [np.zeros((len(inputs), *shape)) for shape in shapes]
    total = potentials[-1].copy()
    for t, x in enumerate(inputs):
        for index, layer in enumerate(layers):
            for function in layer:
                x = function(x)
            # Input is ignored until the refractory period has passed.
            ready = free_from[index] <= t
            potentials[index] += np.where(ready, x, 0)
            if index == len(layers) - 1:
                total = total + np.where(ready, x, 0)
            fired = (potentials[index] >= thresholds[index]) & ready
            if reset == "zero":
                potentials[index][fired] = 0
            else:
                potentials[index][fired] -= np.broadcast_to(thresholds[index], fired.shape)[fired]
            free_from[index][fired] = t + refractory_steps
            spikes[index][t] = fired
            x = fired * amplitudes[index]
        if received is not None:
            received.append(total)
    return spikes


def predictions(output_spikes):
    """Class after every step: most spikes so far, ties to the lowest, -1 while there are none."""
    counts = np.cumsum(output_spikes, 0)
    return np.where(counts.max(1) > 0, counts.argmax(1), -1)


# -- Integers: every layer is a matrix [outputs, inputs], its neurons in row-major order -----------


def convolution_matrix(
    kernel, shape, strides, padding, input_dilation=None, kernel_dilation=None, groups=1
):
    """Kernel [window, channels of a group, maps] over inputs [space, channels], tap by tap.

    Output o receives input i through tap t where o·stride + t·spread = i·dilation + low padding.
    """
    *space, channels = shape
    *window, per_group, maps = kernel.shape
    ones = [1] * len(space)
    dilation, spread = input_dilation or ones, kernel_dilation or ones
    outputs = [
        ((n - 1) * d + 1 + low + high - (w - 1) * s - 1) // step + 1
        for n, d, (low, high), w, s, step in zip(
            space, dilation, padding, window, spread, strides, strict=True
        )
    ]
    matrix = np.zeros((*outputs, maps, *space, channels), kernel.dtype)
    for place in np.ndindex(*outputs):
        for tap in np.ndindex(*window):
            inputs = []
            for axis in range(len(space)):
                at = place[axis] * strides[axis] + tap[axis] * spread[axis] - padding[axis][0]
                inputs.append(at // dilation[axis])
                if at % dilation[axis] or not 0 <= inputs[-1] < space[axis]:
                    break
            else:
                for one in range(maps):
                    group = one // (maps // groups)
                    fan_in = slice(group * per_group, (group + 1) * per_group)
                    matrix[(*place, one, *inputs, fan_in)] += kernel[(*tap, slice(None), one)]
    return matrix.reshape(-1, np.prod(shape))


def window_matrix(shape, window, strides, padding):
    """Sums over windows of inputs [space, channels], each channel for itself: ones and zeros."""
    channels = shape[-1]
    ones = np.ones((*window, 1, channels), np.int64)
    return convolution_matrix(ones, shape, strides, padding, groups=channels)


def simulate_integers(
    matrices, inputs, thresholds, *, reset="zero", refractory_steps=0, potentials=None, biases=None
):
    """As `simulate`, in integers of 64 bits and for many samples at once: inputs [T, B, n].

    Inputs that are no integers are multiples of 2^-16, and their currents rounded. A threshold of
    None is that of neurons that only accumulate. Returns the spikes of every layer [T, B, n], and
    the last potentials [B, n].
    """
    matrices = [matrix.astype(np.int64) for matrix in matrices]
    batch = inputs.shape[1]
    current = [np.zeros((batch, len(matrix)), np.int64) for matrix in matrices]
    if potentials is not None:
        current = [zero + start for zero, start in zip(current, potentials, strict=True)]
    free_from = [np.zeros(v.shape, int) for v in current]
    spikes = [np.zeros((len(inputs), *v.shape), np.int64) for v in current]
    biases = biases or [0] * len(matrices)
    numbers = np.issubdtype(inputs.dtype, np.floating)
    inputs = np.rint(inputs * 2.0**16).astype(np.int64) if numbers else inputs.astype(np.int64)
    for t, x in enumerate(inputs):
        first = True
        for v, free, fired, matrix, theta, bias in zip(
            current, free_from, spikes, matrices, thresholds, biases, strict=True
        ):
            ready = free <= t
            received = x @ matrix.T
            received = (received + (1 << 15)) >> 16 if first and numbers else received
            first = False
            v += ready * (received + bias)
            x = (v >= theta) & ready if theta is not None else np.zeros(v.shape, bool)
            v -= x * (v if reset == "zero" or theta is None else theta)
            free[x] = t + refractory_steps
            fired[t] = x
    return spikes, current


# -- Random bits -----------------------------------------------------------------------------------


def threefry(key, counter):
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011), in Python's integers."""
    mask = (1 << 32) - 1
    keys = [*key, 0x1BD11BDA ^ key[0] ^ key[1]]
    a, b = ((word + add) & mask for word, add in zip(counter, keys, strict=False))
    rotations = [13, 15, 26, 6, 17, 29, 16, 24]
    for number in range(20):
        a = (a + b) & mask
        distance = rotations[number % 8]
        b = (b << distance | b >> 32 - distance) & mask ^ a
        if number % 4 == 3:
            group = number // 4 + 1
            a = (a + keys[group % 3]) & mask
            b = (b + keys[(group + 1) % 3] + group) & mask
    return a, b


def bits_16(key, count):
    """So many draws of 16 bits: the halves of the words of one block for every four of them."""
    blocks = [threefry(key, (0, block)) for block in range(-(-count // 4))]
    one, two = zip(*blocks, strict=True)
    halves = [[w >> shift & 0xFFFF for w in words] for words in (one, two) for shift in (0, 16)]
    return np.concatenate(halves)[:count]


def poisson_spikes(seed, samples, steps, probabilities):
    """Input spikes [T, B, n] of probabilities [B, n], where draw < round(65536·probability)."""
    wanted = np.rint(probabilities.astype(np.float64) * 65536)
    spikes = np.zeros((steps, *wanted.shape), np.int64)
    for place, sample in enumerate(samples):
        key = threefry((0, seed), (0, sample))
        for t in range(steps):
            spikes[t, place] = bits_16(threefry(key, (0, t)), wanted.shape[1]) < wanted[place]
    return spikes
