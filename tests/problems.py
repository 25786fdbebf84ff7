"""Named problems with exact answers: every engine has to give the spikes of the oracle."""

import functools
from dataclasses import dataclass, field

import jax
import numpy as np

import jaxsnn

import models
import reference


@dataclass(frozen=True, eq=False)
class Problem:
    """A network of dyadic weights, how it is balanced, and how it is simulated."""

    name: str
    build: object
    scales: object = 1.0
    balance: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    steps: int = 12
    samples: int = 3

    @functools.cache  # noqa: B019 (there are few problems)
    def spiking_network(self):
        network, _ = self._made()
        scales = self.scales if np.ndim(self.scales) == 0 else list(self.scales)
        return jaxsnn.balance_thresholds(network, scales, **self.balance)

    def layers(self):
        """The layers as functions of NumPy, for the oracle."""
        return self._made()[1]

    @functools.cache  # noqa: B019
    def _made(self):
        return self.build(np.random.default_rng(7))

    @property
    def spiking(self):
        return self.spiking_network().network.layers[-1].spiking

    def images(self):
        shape = self.spiking_network().network.input_shape
        return models.dyadic_images(np.random.default_rng(8), self.samples, *shape)

    def simulate(self, snn, engine):
        options = {"key": 11, "duration": self.steps * 1e-3, **self.options}
        return jaxsnn.simulate(snn, self.images(), engine=engine, **options)

    @property
    def reset(self):
        reset = self.options.get("reset", self.balance.get("reset", jaxsnn.reset_to_zero))
        return "zero" if reset is jaxsnn.reset_to_zero else "subtraction"

    @property
    def refractory_steps(self):
        return round(self.options.get("refractory_period", 0.0) * 1000)

    def inputs(self, probabilities):
        """The input spikes [T, B, ...]: keyed by seed, sample and step alone."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(11), np.arange(self.samples))
        encode = encoder(self.options.get("encode", jaxsnn.poisson))
        steps = [jax.vmap(jax.random.fold_in, (0, None))(keys, t) for t in range(self.steps)]
        return np.stack([np.asarray(encode(of_step, probabilities)) for of_step in steps])

    @functools.cache  # noqa: B019
    def answer(self):
        """Inputs, the spikes of every layer, and scores, [T, B, ...]: by the oracle."""
        snn = self.spiking_network()
        rate = self.options.get("max_rate", 1000.0)
        inputs = self.inputs(snn.probabilities(self.images(), rate, 1e-3))
        thresholds = [np.asarray(theta) for theta in snn.thresholds]
        sent = [np.asarray(row[0]) for row in snn.amplitudes[1:]] + [np.ones(())]
        fraction = self.balance.get("initial_potential", 0.0)
        totals = [[] for _ in range(self.samples)]
        samples = [
            reference.simulate(
                self.layers(),
                inputs[:, sample],
                thresholds,
                sent,
                reset=self.reset,
                refractory_steps=self.refractory_steps,
                initial_potential=[0 if np.isinf(t).any() else fraction * t for t in thresholds],
                received=totals[sample],
            )
            for sample in range(self.samples)
        ]
        spikes = [np.stack(layer, 1) for layer in zip(*samples, strict=True)]
        return inputs, spikes, np.stack(totals, 1)


@functools.cache
def encoder(encode):
    return jax.jit(jax.vmap(encode))


RISING = (1.0, 2.0, 4.0)
SUBTRACTION = {"reset": jaxsnn.reset_by_subtraction}
HALF_AHEAD = {"initial_potential": 0.5, **SUBTRACTION}
PROBLEMS = [
    Problem("dense", models.dense_network),
    Problem("dense, balanced", models.dense_network, RISING),
    Problem("dense, by subtraction", models.dense_network, RISING, SUBTRACTION),
    Problem(
        "dense, half a threshold ahead",
        models.dense_network,
        RISING,
        HALF_AHEAD,
    ),
    Problem("dense, refractory", models.dense_network, options={"refractory_period": 0.003}),
    Problem("dense, half the rate", models.dense_network, options={"max_rate": 500.0}),
    Problem("dense, constant current", models.dense_network, options={"encode": jaxsnn.constant}),
    Problem(
        "dense, first spike", models.dense_network, options={"read": jaxsnn.readout.first_spike}
    ),
    Problem("biases", models.biased_network),
    Problem("biases, by subtraction", models.biased_network, RISING, HALF_AHEAD),
    Problem(
        "biases, constant current",
        models.biased_network,
        RISING,
        HALF_AHEAD,
        {"encode": jaxsnn.constant},
    ),
    Problem("convolutions", models.convolution_network, steps=6),
    Problem("convolutions, by subtraction", models.convolution_network, 0.5, SUBTRACTION, steps=6),
]
