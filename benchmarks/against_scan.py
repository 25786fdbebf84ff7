"""What does the library cost over a scan written by hand for one network?

`simulate` in float32 beside what a JAX user would write: one `jax.lax.scan` over the steps, jitted,
for the very network, with the reset to zero, that gives the class after every step and the spikes
of every neuron. Exits with 1 if the two do not say the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro
from common import DT, MODELS, RESULTS, Name, Source, Trained, interleaved, new_results, save
from jax import Array, lax

import jaxsnn
from jaxsnn.support.random import sample_keys

GRID = 64  # weights of the comparison are multiples of 1/GRID, so that no sum is rounded
WEIGHTLESS = "average pooling"

Input = Callable[[Array, Array, Array], Array]  # keys or a key, step and images ↦ spikes


# -- By hand ---------------------------------------------------------------------------------------


class Outputs(NamedTuple):
    """What a run says: the class after every step, and the spikes of inputs and layers."""

    predictions: Array
    spike_counts: list[Array]


def same_draws(keys: Array, step: Array, images: Array) -> Array:
    """The input spikes of `simulate`: a key for each image and step, 16 bits for each pixel."""
    keys = jax.random.wrap_key_data(keys)
    step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
    return jax.vmap(jaxsnn.poisson)(step_keys, images)


def bernoulli(key: Array, step: Array, images: Array) -> Array:
    """The input spikes of jax.random: a key for each step, 32 bits for each pixel."""
    return jax.random.bernoulli(jax.random.fold_in(key, step), images).astype(images.dtype)


def current(weights: Array | str, spikes: Array) -> Array:
    """What a layer of the paper's networks receives."""
    if isinstance(weights, str):
        batch, height, width, maps = spikes.shape
        return spikes.reshape(batch, height // 2, 2, width // 2, 2, maps).mean((2, 4))
    if weights.ndim == 4:
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(spikes, weights, (1, 1), "VALID", dimension_numbers=layout)
    return spikes.reshape(len(spikes), -1) @ weights


def make_scan(snn: jaxsnn.SpikingNetwork, draw: Input) -> Callable[..., Outputs]:
    """The scan for this network: (weights, key or keys, images, steps=) ↦ outputs."""
    shapes = snn.network.shapes
    weighted = [layer.weighted for layer in snn.network.layers]

    @partial(jax.jit, static_argnames="steps")
    def run(weights: list[Array], key: Array, images: Array, *, steps: int) -> Outputs:
        given = iter(weights)
        layers = [next(given) if has else WEIGHTLESS for has in weighted]

        def step(state: Any, number: Array) -> tuple[Any, Array]:
            potentials, counts = state
            spikes = draw(key, number, images)
            new_potentials, all_spikes = [], [spikes]
            for layer, potential in zip(layers, potentials):
                potential = potential + current(layer, spikes)
                fired = potential >= 1
                new_potentials.append(jnp.where(fired, 0, potential))
                spikes = fired.astype(potential.dtype)
                all_spikes.append(spikes)
            counts = [count + spikes for count, spikes in zip(counts, all_spikes)]
            output = counts[-1]
            prediction = jnp.where(output.max(1) > 0, output.argmax(1), -1)
            return (new_potentials, counts), prediction

        batch = len(images)
        potentials = [jnp.zeros((batch, *shape)) for shape in shapes]
        counts = [jnp.zeros_like(images), *potentials]
        (_, counts), predictions = lax.scan(step, (potentials, counts), jnp.arange(steps))
        return Outputs(predictions, counts)

    return run


class Contestants(NamedTuple):
    """Three ways to run one network: (images, steps) ↦ outputs."""

    simulate: Callable[[Array, int], Outputs]
    by_hand: Callable[[Array, int], Outputs]
    by_hand_bernoulli: Callable[[Array, int], Outputs]


def contestants(snn: jaxsnn.SpikingNetwork) -> Contestants:
    """The library and the scans by hand for one network, whose thresholds are 1."""
    assert all(float(v) == 1 for v in jax.tree.leaves((snn.thresholds, snn.amplitudes)))
    weights = [w for layer in snn.network.layers for w in layer.weights]
    scan, other = make_scan(snn, same_draws), make_scan(snn, bernoulli)

    def simulate(images: Array, steps: int) -> Outputs:
        duration = steps * DT
        options = {"key": 0, "duration": duration, "dt": DT, "engine": "scan", "progress": False}
        run = jaxsnn.simulate(snn, images, **options)
        jax.block_until_ready(run)
        return Outputs(run.predictions, [run.input_spike_counts, *run.spike_counts])

    def by_hand(images: Array, steps: int) -> Outputs:
        return scan(weights, sample_keys(0, np.arange(len(images))), images, steps=steps)

    def by_hand_bernoulli(images: Array, steps: int) -> Outputs:
        return other(weights, jax.random.key(0), images, steps=steps)

    return Contestants(simulate, by_hand, by_hand_bernoulli)


# -- Is it the same? -------------------------------------------------------------------------------


def differences(network: jaxsnn.SpikingNetwork, images: Array, steps: int) -> dict[str, int]:
    """How many predictions and spike counts differ where sums of weights are exact."""
    exact = jax.tree.map(lambda x: jnp.round(x * GRID) / GRID, network)
    found = contestants(exact)
    ours, theirs = found.simulate(images, steps), found.by_hand(images, steps)
    counts = [int((a != b).sum()) for a, b in zip(ours.spike_counts, theirs.spike_counts)]
    return {
        "spikes": int(sum(count.sum() for count in ours.spike_counts[1:])),
        "differing predictions": int((ours.predictions != theirs.predictions).sum()),
        "differing spike counts": sum(counts),
    }


def agreement(found: Contestants, images: Array, steps: int) -> float:
    """The part of all predictions that agree with trained weights, whose sums are rounded."""
    ours, theirs = found.simulate(images, steps), found.by_hand(images, steps)
    return float((ours.predictions == theirs.predictions).mean())


# -- How fast? -------------------------------------------------------------------------------------


def race(snn: jaxsnn.SpikingNetwork, images: Array, steps: int, repeats: int) -> dict[str, Any]:
    """Seconds of a call of each, interleaved, and the overhead of `simulate`.

    The overhead is the median of the ratios of neighbouring measurements, less 1.
    """
    found = contestants(snn)
    agree = agreement(found, images, steps)
    jobs = {name: partial(job, images, steps) for name, job in found._asdict().items()}
    seconds = interleaved(jobs, repeats)
    ours, same, other = seconds.values()
    return {
        "seconds": seconds,
        "overhead": median(a / b for a, b in zip(ours, same)) - 1,
        "overhead, bernoulli": median(a / b for a, b in zip(ours, other)) - 1,
        "spread": max(max(values) / min(values) for values in seconds.values()),
        "predictions that agree": agree,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Milliseconds of a call, medians, and overheads in percent."""
    shown = []
    for row in rows:
        ours, same, other = (1e3 * median(values) for values in row["seconds"].values())
        shown.append(
            {key: row[key] for key in ("network", "batch", "steps")}
            | {"simulate (ms)": f"{ours:.1f}", "by hand (ms)": f"{same:.1f}"}
            | {"overhead (%)": f"{100 * row['overhead']:+.1f}"}
            | {"by hand, bernoulli (ms)": f"{other:.1f}"}
            | {"overhead, bernoulli (%)": f"{100 * row['overhead, bernoulli']:+.1f}"}
            | {"spread": f"{row['spread']:.2f}"}
        )
    return pd.DataFrame(shown).to_markdown(index=False, disable_numparse=True)


# -- The command line ------------------------------------------------------------------------------


def main(
    source: Source = Trained(),  # noqa: B008 - it is frozen
    networks: tuple[Name, ...] = tuple(MODELS),
    batches: tuple[int, ...] = (1, 20, 500),
    steps: tuple[int, ...] = (100, 500),
    repeats: int = 7,
    quick: bool = False,
    output: Path = RESULTS / "against_scan.json",
) -> None:
    """Time `simulate` beside a scan written by hand.

    Args:
        source: where networks and data come from.
        networks: which of the paper's networks.
        batches: images simulated together.
        steps: time steps of 1 ms in a call.
        repeats: interleaved measurements of each; the table has their medians.
        quick: a short run that only shows that everything works.
        output: the file for the results, written after each race.
    """
    if quick:
        batches, steps, repeats = (1, 20), (20,), 2
    results = new_results(steps=steps, repeats=repeats)
    results |= {"agreement": {}, "rows": []}
    pixels = source.data[1].images
    for name in networks:
        snn = jaxsnn.normalize_weights(*source.scaled(name))
        results["agreement"][name] = differences(snn, jnp.asarray(pixels[:20]), min(steps))
        for batch, number in product(batches, steps):
            row = race(snn, jnp.asarray(pixels[:batch]), number, repeats)
            results["rows"].append({"network": name, "batch": batch, "steps": number} | row)
            save(results, output)
    print(pd.DataFrame(results["agreement"]).to_markdown(), end="\n\n")
    print(table(results["rows"]))
    if any(
        check["differing predictions"] or check["differing spike counts"]
        for check in results["agreement"].values()
    ):
        sys.exit("simulate and the scan by hand do not say the same.")


if __name__ == "__main__":
    tyro.cli(main)
