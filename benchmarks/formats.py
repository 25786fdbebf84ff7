"""Which number format computes exact products of integers fastest on this CPU?

The products of the paper's networks are timed alone, for as many images and steps at once as
`simulate` takes, and then whole runs of the scan with 8 bits, in each format. The script says for
each kind of operation whether its format in `jaxsnn/engines/scan/integers.py` is the fastest, or
within 10 % of it. Weights are random, and spikes 0: no time of a product depends on them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro
from common import DT, MODELS, RESULTS, Name, captured, interleaved, new_results, save
from flax import nnx

import jaxsnn
from jaxsnn.engines import Run, Scan, scan
from jaxsnn.engines.scan.integers import FORMATS, fastest_format, integer_product, planes
from jaxsnn.engines.scan.lowering import _fastest, fastest_formats
from jaxsnn.engines.scan.patches import Patches
from jaxsnn.network import Convolution, Dense, Operation

WITHIN = 0.1
BATCHES = (1, 20, 500)
STEPS, LARGEST = 100, 10_000  # of a whole run: steps, and image-steps at most


def products(run: Run) -> tuple[int, list[tuple[Operation, dict[str, Any]]]]:
    """Image-steps at once; and each operation with weights, and its product in each format."""
    network, count = run.network.network, scan._fitting_chunk(run) * len(run.images)
    connections = [part for layer in network.layers for part in layer.all_connections]
    found = []
    for connection in connections:
        shape = network.shape_of(connection.source)
        spikes = np.zeros((count, *shape), np.int32)
        *before, operation = _fastest(connection, shape).operations
        if operation.weighted:
            for permutation in before:
                spikes = permutation(spikes)
            jobs = {}
            for name, number_format in FORMATS.items():
                compute = jax.jit(partial(integer_product, operation, number_format=number_format))
                weights = planes(jax.tree.leaves(operation)[0], number_format)
                jobs[name] = partial(compute, weights, jnp.asarray(spikes))
            found.append((operation, jobs))
    return count, found


def whole_run(network: Any, images: np.ndarray, steps: int, name: str) -> jaxsnn.Simulation:
    """A run of the scan with all products in one format."""
    formats = tuple((kind, FORMATS[name]) for kind, _ in fastest_formats(network))
    options = {"duration": steps * DT, "engine": "scan", "progress": False}
    with mock.patch.object(scan, "fastest_formats", return_value=formats):
        return jaxsnn.simulate(network, images, key=0, **options)


def measure(name: Name, batch: int, steps: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Microseconds of an image-step in each format: the shortest of all rounds."""
    images = np.random.default_rng(0).random((max(batch, 50), 28, 28, 1), np.float32) ** 4
    model = MODELS[name](rngs=nnx.Rngs(0))
    model.eval()
    network = jaxsnn.read_network(model, images[:1])
    scales = jaxsnn.data_based_scales(network, images)
    fixed = jaxsnn.quantize(jaxsnn.balance_thresholds(network, scales))
    at_once, pairs = products(captured(Scan, fixed, images[:batch], steps))
    measured = [(type(op).__name__, str(op), at_once, jobs) for op, jobs in pairs]
    whole = {n: partial(whole_run, fixed, images[:batch], steps, n) for n in FORMATS}
    for kind, what, count, jobs in [*measured, ("", "whole run", batch * steps, whole)]:
        seconds = interleaved(jobs, repeats)
        shortest = {f"{n} (µs)": 1e6 * min(values) / count for n, values in seconds.items()}
        row = {"network": name, "batch": batch, "at once": at_once, "kind": kind, "what": what}
        yield row | shortest | {"seconds": seconds}


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """For each kind of operation whether the table holds, by the sum over all its products."""
    data, found = pd.DataFrame(rows), []
    for kind in (Dense, Patches, Convolution):
        sums = data[data["kind"] == kind.__name__][[f"{name} (µs)" for name in FORMATS]].sum()
        if sums.all():
            ratios = dict(zip(FORMATS, sums / sums.min()))
            chosen = next(n for n, f in FORMATS.items() if f == fastest_format(kind, "cpu"))
            holds = "holds" if ratios[chosen] <= 1 + WITHIN else "does not hold"
            told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
            found.append(f"{kind.__name__}: {chosen} {holds} (times the fastest: {told})")
    return found


def main(repeats: int = 7, quick: bool = False, output: Path = RESULTS / "formats.json") -> None:
    """Time products and whole runs in each number format.

    Args:
        repeats: interleaved measurements of each; the table has the shortest.
        quick: a short run that only shows that everything works.
        output: the file for the results, written after each measurement.
    """
    batches, repeats = ((2,), 1) if quick else (BATCHES, repeats)
    results = new_results(repeats=repeats) | {"rows": []}
    for name, batch in product(MODELS, batches):
        for row in measure(name, batch, min(STEPS, LARGEST // batch), repeats):
            results["rows"].append(row)
            results["verdicts"] = verdicts(results["rows"])
            save(results, output)
            print(name, batch, row["what"], "done", file=sys.stderr, flush=True)
    table = pd.DataFrame(results["rows"]).drop(columns="seconds")
    print(table.to_markdown(index=False, floatfmt=".1f"), *results["verdicts"], sep="\n\n")


if __name__ == "__main__":
    tyro.cli(main)
