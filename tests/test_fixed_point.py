"""Fixed point: spikes of the NumPy oracle on both engines, bounds that hold, errors that are told."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import jaxsnn
from jaxsnn import readout, units

import models
import reference

RESETS = {"zero": jaxsnn.reset_to_zero, "subtraction": jaxsnn.reset_by_subtraction}
LARGEST = {8: 127, 16: 32767}
BOUND = 1 << 30  # of potentials and thresholds
SEED, STEPS, BATCH = 11, 20, 3


# -- Operations, for JAX and as matrices -----------------------------------------------------------


class Operation(NamedTuple):
    """A linear map of one sample: for JAX, and for the oracle a matrix of given weights."""

    apply: Any
    matrix: Any
    weights: Any = None
    divisors: Any = 1  # a mean is a sum, and a division for each output


def normal(*shape):
    return np.random.default_rng(np.prod(shape)).normal(size=shape).astype(np.float32)


def dense(*shape):
    """Over the last axis, [..., inputs, outputs]."""
    *many, inputs, outputs = shape
    return Operation(
        lambda x, w: x @ w, lambda w: np.kron(np.eye(np.prod(many, dtype=int), dtype=w.dtype), w.T),
        normal(inputs, outputs),
    )  # fmt: skip


def flatten():
    return Operation(lambda x, w: x.reshape(len(x), -1), None)


def multiply(*shape, by=None):
    """By a factor for each of the inputs, or by one that broadcasts to them."""
    factor = np.abs(normal(*(by or shape)))
    return Operation(
        lambda x, w: x * w, lambda w: np.diag(np.broadcast_to(w, shape).ravel()), factor
    )


def convolution(shape, window, maps, strides=None, padding=None, channels_first=False, **options):
    """Over [space, channels], or over [channels, space]."""
    space = len(window)
    strides, padding = strides or (1,) * space, padding or ((0, 0),) * space
    groups = options.get("groups", 1)
    kernel = normal(*window, shape[-1] // groups, maps)
    letters = "HW"[:space]
    numbers = [f"N{letters}C", f"{letters}IO", f"N{letters}C"]
    if channels_first:
        numbers = [f"NC{letters}", f"OI{letters}", f"NC{letters}"]
        kernel = np.moveaxis(kernel, (-1, -2), (0, 1))

    def apply(x, w):
        return lax.conv_general_dilated(
            x, w, strides, padding, options.get("input_dilation"), options.get("kernel_dilation"),
            tuple(numbers), groups,
        )  # fmt: skip

    def matrix(w):
        if not channels_first:
            return reference.convolution_matrix(w, shape, strides, padding, **options)
        w = np.moveaxis(w, (0, 1), (-1, -2))
        found = reference.convolution_matrix(w, shape, strides, padding, **options)
        columns = np.moveaxis(np.arange(np.prod(shape)).reshape(shape), -1, 0).ravel()
        rows = np.arange(len(found)).reshape(-1, maps).T.ravel()
        return found[rows][:, columns]

    return Operation(apply, matrix, kernel)


def pooling(shape, window, strides=None, padding=None, count_padding=True):
    strides, padding = strides or window, padding or ((0, 0),) * len(window)
    matrix = reference.window_matrix(shape, window, strides, padding)
    return Operation(
        lambda x, w: nnx.avg_pool(x, window, strides, padding, count_include_pad=count_padding),
        lambda w: matrix,
        divisors=np.prod(window) if count_padding else matrix.sum(1),
    )


@dataclass
class Case:
    """A network, what its layers are made of, and how it is simulated."""

    input_shape: tuple
    layers: list
    bits: Any = 8
    per: str = "channel"
    reset: str = "zero"
    refractory_steps: int = 0
    initial_potential: Any = 0.0
    scales: Any = None  # λ of each layer
    events: bool = True

    @functools.cached_property
    def network(self):
        def model(x):
            for layer in self.layers:
                for operation in layer:
                    x = operation.apply(x, operation.weights)
                x = jax.nn.relu(x)
            return x

        return jaxsnn.read_network(model, np.zeros((1, *self.input_shape), np.float32))

    @functools.cached_property
    def snn(self):
        scales = self.scales or [0.5 + 0.25 * i for i in range(len(self.layers))]
        return jaxsnn.balance_thresholds(self.network, scales)

    @functools.cached_property
    def fixed(self):
        return jaxsnn.quantize(self.snn, bits=self.bits, per=self.per)

    def matrices(self, weights_of, mean):
        """One for each layer, of the weights that a function gives for its number."""
        found = []
        for index, layer in enumerate(self.layers):
            whole = 1
            for operation in layer:
                if operation.matrix is not None:
                    part = operation.matrix(weights_of(index) if operation.weights is not None else 0)
                    part = part / np.reshape(operation.divisors, (-1, 1)) if mean else part
                    whole = part if isinstance(whole, int) else part @ whole
            if isinstance(whole, int):  # nothing but ReLUs
                whole = np.eye(np.prod(self.network.shapes[index]), dtype=int)
            found.append(whole)
        return found

    def integer_matrices(self):
        def weights(index):
            (found,) = self.fixed.network.layers[index].weights
            return np.asarray(found, np.int64)

        matrices = self.matrices(weights, mean=False)
        return [m * gain for m, gain in zip(matrices, self.fixed.gains, strict=True)]

    def of_neurons(self, values):
        """Values of each layer, flat."""
        shapes = self.network.shapes
        return [
            np.broadcast_to(np.asarray(v), shape).ravel()
            for v, shape in zip(values, shapes, strict=True)
        ]


IMAGE, CHANNELS = (6, 7, 2), (5, 6, 4)
CONVOLUTION, POOLING = convolution(IMAGE, (3, 2), 4), pooling((4, 6, 4), (2, 2))
CASES = {
    "dense": lambda: Case((13,), [[dense(13, 11)], [dense(11, 7)], [dense(7, 3)]]),
    "dense, mixed bits, per layer": lambda: Case(
        (13,),
        [[dense(13, 11)], [dense(11, 7)], [dense(7, 3)]],
        bits=[8, 16, 8],
        per="layer",
        reset="subtraction",
        refractory_steps=3,
        initial_potential=[0.25, np.linspace(-0.5, 1.0, 7, dtype=np.float32), 2.0],
    ),
    "dense over leading axes": lambda: Case(
        (3, 4), [[dense(3, 4, 5)], [flatten(), dense(15, 3)]], bits=16, refractory_steps=1
    ),
    "convolution and pooling": lambda: Case(
        IMAGE, [[CONVOLUTION], [POOLING], [flatten(), dense(24, 3)]], reset="subtraction"
    ),
    "convolution and pooling, refractory": lambda: Case(
        IMAGE,
        [[CONVOLUTION], [POOLING], [flatten(), dense(24, 3)]],
        bits=16,
        refractory_steps=2,
        initial_potential=0.75,
    ),
    "convolution with strides, padding, dilation and groups": lambda: Case(
        IMAGE,
        [
            [convolution(IMAGE, (2, 3), 4, (2, 1), ((1, 2), (0, 1)), kernel_dilation=(1, 2))],
            [convolution((4, 4, 4), (3, 2), 6, padding=((0, 1), (1, 0)), groups=2)],
            [flatten(), dense(72, 3)],
        ],
        bits=[8, 8, 16],
        per="layer",
    ),
    "convolution with the channels first": lambda: Case(
        (2, 6, 7),
        [
            [convolution(IMAGE, (3, 2), 4, channels_first=True)],
            [convolution((4, 6, 4), (2, 2), 3, (1, 2), channels_first=True)],
            [flatten(), dense(27, 4)],
        ],
        reset="subtraction",
    ),
    "transposed convolution in one dimension": lambda: Case(
        (5, 2),
        [
            [convolution((5, 2), (3,), 3, padding=((2, 2),), input_dilation=(2,))],
            [flatten(), dense(33, 3)],
        ],
    ),
    "pooling first": lambda: Case(
        IMAGE, [[pooling(IMAGE, (2, 3))], [flatten(), dense(12, 3)]], refractory_steps=2
    ),
    "windows that overlap, padding counted": lambda: Case(
        CHANNELS,
        [
            [multiply(*CHANNELS, by=(1, 1, 4))],
            [pooling(CHANNELS, (3, 2), (2, 1), ((1, 1), (1, 0)))],
            [flatten(), dense(72, 3)],
        ],
    ),
    "windows that overlap, padding not counted": lambda: Case(
        CHANNELS,
        [
            [multiply(*CHANNELS)],
            [pooling(CHANNELS, (3, 2), (2, 1), ((1, 1), (1, 0)), count_padding=False)],
            [flatten(), dense(72, 3)],
        ],
        bits=16,
        reset="subtraction",
    ),
    "factors": lambda: Case(
        (6,), [[multiply(6, by=(1,))], [multiply(6)]], per="layer", reset="subtraction"
    ),
    "a scale factor for each channel": lambda: Case(
        IMAGE,
        [
            [CONVOLUTION],
            [POOLING],
            [convolution((2, 3, 4), (2, 2), 3)],
            [flatten(), dense(6, 3)],
        ],
        scales=[np.array([0.5, 0.75, 1.0, 2.0], np.float32)] * 2
        + [np.array([1.0, 0.25, 0.5], np.float32), 0.5],
        bits=[8, 8, 16, 8],
    ),
    "convolution and pooling before one ReLU": lambda: Case(
        IMAGE, [[CONVOLUTION, POOLING], [flatten(), dense(24, 3)]], bits=16, events=False
    ),
    "pooling and dense before one ReLU": lambda: Case(
        CHANNELS, [[multiply(*CHANNELS, by=(1,))], [pooling(CHANNELS, (5, 6)), flatten(), dense(4, 3)]], events=False
    ),
}  # fmt: skip


@functools.cache
def case_of(name):
    return CASES[name]()


@pytest.fixture(params=CASES)
def case(request):
    return case_of(request.param)


def pixels(case, batch=BATCH):
    shape = batch, *case.input_shape
    return np.random.default_rng(0).random(shape, np.float32) ** 0.5


def simulated(case, images, **options):
    return jaxsnn.simulate(
        case.fixed,
        images,
        key=SEED,
        duration=STEPS * 1e-3,
        reset=RESETS[case.reset],
        refractory_period=case.refractory_steps * 1e-3,
        initial_potential=case.initial_potential,
        **options,
    )


def expected(case, images):
    """Spikes of the inputs and of every layer, and the last potentials, by the oracle."""
    starts = case.initial_potential
    starts = starts if isinstance(starts, list) else [starts] * len(case.layers)
    starts = [
        np.rint(v / np.asarray(unit, np.float64)).astype(np.int64)
        for v, unit in zip(starts, case.fixed.units, strict=True)
    ]
    inputs = reference.poisson_spikes(SEED, range(BATCH), STEPS, images.reshape(BATCH, -1))
    spikes, potentials = reference.simulate_integers(
        case.integer_matrices(),
        inputs,
        case.of_neurons(case.fixed.thresholds),
        reset=case.reset,
        refractory_steps=case.refractory_steps,
        potentials=case.of_neurons(starts),
    )
    return inputs, spikes, potentials


def assert_equal_runs(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_both_engines_equal_the_oracle_spike_for_spike(case):
    images = pixels(case)
    inputs, spikes, potentials = expected(case, images)
    assert all(layer.any() and not layer.all() for layer in spikes)
    run = simulated(
        case, images, engine="scan", chunk=5, record=lambda step: [step.inputs, *step.spikes]
    )
    for found, theirs in zip(run.records, [inputs, *spikes], strict=True):
        np.testing.assert_array_equal(found.reshape(theirs.shape), theirs)
    counts = [run.input_spike_counts, *run.spike_counts]
    for found, theirs in zip(counts, [inputs, *spikes], strict=True):
        np.testing.assert_array_equal(found.reshape(BATCH, -1), theirs.sum(0))
    for layer, theirs in zip(run.state.neurons, potentials, strict=True):
        np.testing.assert_array_equal(layer.potential.reshape(theirs.shape), theirs)
    if len(case.network.shapes[-1]) == 1:
        for sample in range(BATCH):
            np.testing.assert_array_equal(
                run.predictions[:, sample], reference.predictions(spikes[-1][:, sample])
            )
    if case.events:
        by_events = simulated(case, images, engine="events")
        assert_equal_runs(by_events, jaxsnn.simulation.replace(run, records=None))


def test_the_integers_stand_for_the_network(case):
    """Weights and thresholds in the original units, and their errors, recomputed by NumPy."""
    weights = [
        next((o.weights.astype(np.float64) for o in layer if o.weights is not None), None)
        for layer in case.layers
    ]
    exact = case.matrices(lambda index: weights[index], mean=True)
    thresholds, unit, amplitudes = map(
        case.of_neurons, (case.snn.thresholds, case.fixed.units, case.snn.amplitudes)
    )
    integers = case.of_neurons(case.fixed.thresholds)
    before = np.ones(exact[0].shape[1])
    for index, matrix in enumerate(case.integer_matrices()):
        error = np.abs(matrix * unit[index][:, None] - exact[index] * before)
        error = np.max(error / thresholds[index][:, None])
        several = sum(o.matrix is not None for o in case.layers[index]) > 1
        told = case.fixed.weight_errors[index]
        assert error <= told + 1e-6 if several else error == pytest.approx(told, rel=0.01, abs=1e-6)
        error = np.max(np.abs(integers[index] * unit[index] / thresholds[index] - 1))
        assert error == pytest.approx(case.fixed.threshold_errors[index], rel=0.01, abs=1e-6)
        if case.fixed.bits[index] == 16:
            assert error < 1e-3
            assert told < 1e-3
        before = amplitudes[index]


def test_all_sums_of_a_step_have_their_bits(case):
    for index, matrix in enumerate(case.integer_matrices()):
        bits = case.fixed.bits[index]
        bound = min({8: 32767, 16: (1 << 24) - 1}[bits], BOUND // case.fixed.steps)
        assert np.maximum(matrix, 0).sum(1).max() <= bound
        assert np.maximum(-matrix, 0).sum(1).max() <= bound
        for w in case.fixed.network.layers[index].weights:
            assert w.dtype == {8: np.int8, 16: np.int16}[bits]
