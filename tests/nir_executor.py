"""The oracle of NIR: graphs computed from the specification in NumPy, step by step.

It shares no code with the library. Numbers are of 64 bits, and without a batch.

Source: Pedersen et al. 2024, "Neuromorphic intermediate representation".
"""

import numpy as np


def run(graph, inputs, at_threshold=False):
    """What every node sends in each step, {name: [T, ...]}, for inputs [T, ...].

    Neurons start at 0 and spike above their threshold, or from it on if `at_threshold`.
    """
    potentials = {}
    sent = {name: [] for name in graph.nodes}
    for step in inputs:
        now = {}
        for name in ordered(graph):
            node, kind = graph.nodes[name], type(graph.nodes[name]).__name__
            total = sum(now[source] for source, target in graph.edges if target == name)
            if kind == "IF":
                before = potentials.get(name, np.zeros(node.v_threshold.shape))
                now[name], potentials[name] = fire(node, before + node.r * total, at_threshold)
            elif kind == "Input":
                now[name] = np.asarray(step, np.float64)
                assert now[name].shape == tuple(node.input_type["input"])
            else:
                now[name] = LINEAR[kind](node, total)
        for name, value in now.items():
            sent[name].append(value)
    return {name: np.stack(values) for name, values in sent.items()}


def fire(node, potential, at_threshold):
    over = potential >= node.v_threshold if at_threshold else potential > node.v_threshold
    return over * 1.0, np.where(over, node.v_reset, potential)


def ordered(graph):
    """The nodes, each after all that it receives from."""
    done = []
    while len(done) < len(graph.nodes):
        ready = [
            name
            for name in graph.nodes
            if name not in done and all(s in done for s, target in graph.edges if target == name)
        ]
        assert ready, "a cycle"
        done += ready
    return done


def convolve(node, x):
    """y[o, ...] = Σ w[o, c, ...] x[c, place · stride + offset · dilation - padding] + b[o]."""
    axes = node.weight.ndim - 2
    stride, padding, dilation = (
        np.broadcast_to(value, axes) for value in (node.stride, node.padding, node.dilation)
    )
    x = np.pad(x, [(0, 0), *((p, p) for p in padding)])
    window = (np.array(node.weight.shape[2:]) - 1) * dilation + 1
    sizes = (np.array(x.shape[1:]) - window) // stride + 1
    outputs, inputs = node.weight.shape[:2]
    y = np.zeros((outputs, *sizes))
    for o in range(outputs):
        first = o // (outputs // node.groups) * inputs
        for place in np.ndindex(*sizes):
            seen = tuple(
                slice(at * s, at * s + wide, d)
                for at, s, wide, d in zip(place, stride, window, dilation)
            )
            y[(o, *place)] = (node.weight[o] * x[(slice(first, first + inputs), *seen)]).sum()
    return y + node.bias.reshape(-1, *[1] * axes)


def pool(node, x):
    """Sums over windows."""
    rows, columns = node.kernel_size
    padded = np.pad(x, [(0, 0), *((p, p) for p in node.padding)])
    sizes = (np.array(padded.shape[1:]) - node.kernel_size) // node.stride + 1
    y = np.zeros((len(x), *sizes))
    for row, column in np.ndindex(*sizes):
        top, left = np.array((row, column)) * node.stride
        y[:, row, column] = padded[:, top : top + rows, left : left + columns].sum((1, 2))
    return y


def flatten(node, x):
    end = node.end_dim % x.ndim + 1
    return x.reshape(*x.shape[: node.start_dim], -1, *x.shape[end:])


LINEAR = {
    "Affine": lambda node, x: node.weight @ x + node.bias,
    "Linear": lambda node, x: node.weight @ x,
    "Conv1d": convolve,
    "Conv2d": convolve,
    "SumPool2d": pool,
    "AvgPool2d": lambda node, x: pool(node, x) / np.prod(node.kernel_size),
    "Flatten": flatten,
    "Scale": lambda node, x: node.scale * x,
    "Output": lambda node, x: x,
}
