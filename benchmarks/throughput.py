"""How many image-steps per second do jaxsnn and its peers make of the same job?

The job: draw input spikes, simulate the network, read the class after every step. Exits with 1 if
spike counts or accuracies show that it is not the same job.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import pandas as pd
import torch
import tyro
from peers import (
    DT,
    LARGEST_Z,
    NETWORKS,
    Peer,
    chosen,
    relu_network,
    sample_images,
    timed,
    versions,
)

import jaxsnn
from jaxsnn.paper.reproduce import machine

SHORTEST = 0.5  # seconds of one measurement: shorter jobs are repeated within it
STEPS_AT_ONCE = (1, 5, 20, 100)  # of multi-step peers: whichever is fastest in a trial
LARGEST_CALL = 10_000  # image-steps of a call of theirs, whose memory grows with them
FEWEST = 20  # images of which an accuracy is compared

Engine = Literal["float32", "fixed", "events", "events float32"]
Package = Literal["spikingjelly", "snntorch", "norse", "sinabs", "spyx", "sparxml"]


# -- The contestants -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ours:
    """An engine of jaxsnn.

    Attributes:
        simulate: (images, duration) ↦ the run.
        note: what the engine is.
    """

    simulate: Callable[..., jaxsnn.Simulation]
    note: str

    def run(self, images: Any, steps: int, key: int = 0) -> jaxsnn.Simulation:
        """A run, finished: its classes are on the host, as those of the peers are."""
        run = self.simulate(images, key=key, duration=steps * DT, dt=DT, progress=False)
        np.asarray(run.predictions)
        return run

    def classify(self, images: Any, steps: int) -> np.ndarray:
        """The class after every step `[T, B]`; 0 for a silent output, as the peers have it."""
        return np.maximum(np.asarray(self.run(images, steps).predictions), 0)


def our_engines(snn: jaxsnn.SpikingNetwork, chosen: tuple[Engine, ...]) -> dict[str, Ours]:
    """The engines of jaxsnn; the first is the one that the others are compared with."""
    floats = partial(jaxsnn.simulate, snn)
    engines = {"jaxsnn, float32": Ours(partial(floats, engine="scan"), "the scan")}
    if set(chosen) - {"float32"}:
        # Once for all, outside of the measurement, as the peers' networks are built outside of it.
        simulate = partial(jaxsnn.simulate, jaxsnn.quantize(snn, bits=8))
        fixed = Ours(partial(simulate, engine="scan"), "the scan, weights of 8 bits")
        events = Ours(partial(simulate, engine="events"), "spikes alone, weights of 8 bits")
        in_floats = Ours(partial(floats, engine="events"), "spikes alone, float32")
        others = {"fixed": fixed, "events": events, "events float32": in_floats}
        engines |= {f"jaxsnn, {name}": others[name] for name in others if name in chosen}
    return engines


def their_job(peer: Peer, images: np.ndarray, steps: int) -> tuple[Callable[[], Any], int]:
    """The job of a peer, with as many steps in a call as are fastest for it, and that number."""
    pixels = peer.pixels(images)
    if not peer.multi_step:
        return partial(peer.classify, pixels, steps), 1
    most = max(1, LARGEST_CALL // len(images))
    choices = [n for n in STEPS_AT_ONCE if n <= most and steps % n == 0]
    jobs = {n: partial(peer.classify, pixels, steps, n) for n in choices}
    for job in jobs.values():
        job()  # compiles, and allocates
    fastest = min(jobs, key=lambda n: timed(jobs[n], 1))
    return jobs[fastest], fastest


# -- Is it the same job? ---------------------------------------------------------------------------


def z_score(differences: np.ndarray) -> float:
    """The mean over images, of values `[images, ...]`, in its standard errors: the largest |z|."""
    error = differences.std(0, ddof=1) / len(differences) ** 0.5 + 1e-12
    return float((abs(differences.mean(0)) / error).max())


def spike_counts(
    engines: dict[str, Ours], peers: dict[str, Peer], images: np.ndarray, steps: int
) -> dict[str, Any]:
    """Mean spikes per neuron and step of each layer, and the largest |z| of all layers.

    z is that of the difference in an image's spikes to our float32: all see the same images, with
    input spikes of their own.
    """
    counts = {}
    for name, engine in engines.items():
        run = engine.run(images, steps, key=len(counts))  # a seed of its own
        counts[name] = [np.asarray(c) for c in run.spike_counts]
    inputs = np.random.default_rng(0).random((steps, *images.shape), np.float32) < images
    for name, peer in peers.items():
        counts[name] = [s.sum(0) for s in peer.spikes(inputs.astype(np.float32))]
    means = {
        name: np.stack([c.reshape(len(images), -1).mean(1) / steps for c in layers], 1)
        for name, layers in counts.items()
    }
    ours = next(iter(means.values()))
    return {
        name: {"spikes per neuron and step": m.mean(0).tolist(), "|z|": z_score(ours - m)}
        for name, m in means.items()
    }


def right_classes(network: jaxsnn.Network, images: np.ndarray, *, trained: bool) -> np.ndarray:
    """The labels, or what the ReLU network says, so that random weights too have an accuracy."""
    if trained:
        return np.asarray(jaxsnn.load_dataset("mnist")[1].labels[: len(images)])
    return np.asarray(network(images).argmax(1))


def accuracies(predictions: dict[str, np.ndarray], right: np.ndarray) -> dict[str, dict]:
    """Accuracy after the last step, and |z| of the difference to our float32."""
    hits = {name: (p[-1] == right) * 1.0 for name, p in predictions.items()}
    ours = next(iter(hits.values()))
    enough = len(right) >= FEWEST
    return {
        name: {"accuracy": float(h.mean())} | ({"|z|": z_score(ours - h)} if enough else {})
        for name, h in hits.items()
    }


def strangers(results: dict[str, Any]) -> list[str]:
    """What does not run the same job, and where."""
    checks = {f"{network}, spike counts": c for network, c in results["spike counts"].items()}
    for row in results["rows"]:
        checks[f"{row['network']}, {row['batch']} images, accuracy"] = row["accuracy"]
    return [
        f"{name} ({where})"
        for where, check in checks.items()
        for name, values in check.items()
        if values.get("|z|", 0.0) >= LARGEST_Z
    ]


# -- The race --------------------------------------------------------------------------------------


def race(
    engines: dict[str, Ours],
    peers: dict[str, Peer],
    images: np.ndarray,
    right: np.ndarray,
    *,
    steps: int,
    repeats: int,
) -> dict[str, Any]:
    """Image-steps per second of all: A B C D, A B C D, …; the first calls do not count."""
    on_device = jnp.asarray(images)
    jobs: dict[str, Callable[[], Any]] = {
        name: partial(engine.classify, on_device, steps) for name, engine in engines.items()
    }
    at_once = {}
    for name, peer in peers.items():
        jobs[name], at_once[name] = their_job(peer, images, steps)
    predictions = {name: np.asarray(job()) for name, job in jobs.items()}
    numbers = {name: max(1, ceil(SHORTEST / timed(job, 1))) for name, job in jobs.items()}
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            rates[name].append(len(images) * steps / timed(job, numbers[name]))
    medians = {name: median(values) for name, values in rates.items()}
    return {
        "image-steps per second": rates,
        "ratios": ratios(medians, ours=tuple(engines)),
        "steps in a call": {name: n for name, n in at_once.items() if peers[name].multi_step},
        "accuracy": accuracies(predictions, right),
    }


def ratios(medians: dict[str, float], ours: tuple[str, ...]) -> dict[str, float]:
    """How many times as fast as the fastest peer each of our engines is."""
    fastest = max((value for name, value in medians.items() if name not in ours), default=None)
    return {f"{name} / fastest peer": medians[name] / fastest for name in ours} if fastest else {}


def as_line(row: dict[str, Any]) -> str:
    """What is said of a race when it is over."""
    rates = {name: median(rates) for name, rates in row["image-steps per second"].items()}
    order = sorted(rates, key=lambda name: rates[name], reverse=True)
    told = ", ".join(f"{name} {rates[name]:,.0f}" for name in order)
    return f"{row['network']}, {row['batch']} images, image-steps per second: {told}"


def save(results: dict[str, Any], output: Path) -> None:
    """Write all results so far."""
    results["machine"]["load at the end"] = os.getloadavg()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")


def as_table(results: dict[str, Any]) -> str:
    """A line for each contestant, with medians, then the ratios to the fastest peer."""
    columns: dict[str, dict[str, str]] = {}
    for row in results["rows"]:
        medians = {name: median(rates) for name, rates in row["image-steps per second"].items()}
        shown = {name: f"{value:,.0f}" for name, value in medians.items()}
        shown |= {name: f"{value:.2f}" for name, value in row["ratios"].items()}
        columns[f"{row['network']}, {row['batch']}"] = shown
    table = pd.DataFrame(columns).assign(notes=pd.Series(results["notes"]))
    order = [*results["notes"], *results["rows"][0]["ratios"]]
    table = table.reindex(order).fillna("").rename_axis("image-steps per second")
    alignment = ("left", *["right"] * len(columns), "left")
    return table.to_markdown(colalign=alignment, disable_numparse=True)


# -- The command line ------------------------------------------------------------------------------


def main(
    networks: tuple[Literal["FullyConnected", "ConvNet"], ...] = tuple(NETWORKS),
    batches: tuple[int, ...] = (1, 20, 500),
    engines: tuple[Engine, ...] = ("float32", "fixed", "events", "events float32"),
    peers: tuple[Package, ...] = (),
    repeats: int = 5,
    steps: int = 100,
    quick: bool = False,
    weights: Path | None = None,
    output: Path = Path(__file__).parent / "results" / "throughput.json",
) -> None:
    """Run jaxsnn beside its peers, and time them.

    Args:
        networks: which of the paper's networks.
        batches: images simulated together, for each race.
        engines: of jaxsnn; float32 always runs, since the others are compared with it.
        peers: the packages to race against, by their names on PyPI; by default all that are
            installed.
        repeats: interleaved measurements of each; the table has their medians.
        steps: time steps of 1 ms.
        quick: a short run that only shows that everything works.
        weights: a folder with weights, as for peers.py; by default He-random weights.
        output: the file for the results, written after each race.
    """
    if quick:
        batches, repeats, steps = (1, 20), 1, 20
    images = sample_images(max(500, *batches))
    entries, absent = chosen(peers)
    results: dict[str, Any] = {
        "machine": machine()
        | {"threads": torch.get_num_threads(), "load at the start": os.getloadavg()}
        | versions(),
        "settings": {"steps": steps, "repeats": repeats, "trained weights": weights is not None},
        "notes": {},
        "spike counts": {},
        "rows": [],
    }
    with torch.no_grad():
        for network in networks:
            relu = relu_network(network, images, weights)
            snn = jaxsnn.normalize_weights(relu, jaxsnn.data_based_scales(relu, images))
            ours = our_engines(snn, engines)
            theirs = {name: entry.build(snn, "to zero") for name, entry in entries.items()}
            results["notes"] = {
                name: contestant.note for name, contestant in (ours | entries).items()
            } | {name: f"left out: {e.package} is not installed" for name, e in absent.items()}
            some = images[: 20 if quick else 50]
            results["spike counts"][network] = spike_counts(ours, theirs, some, steps)
            right = right_classes(relu, images, trained=weights is not None)
            for batch in batches:
                some, labels = images[:batch], right[:batch]
                row = race(ours, theirs, some, labels, steps=steps, repeats=repeats)
                results["rows"].append({"network": network, "batch": batch} | row)
                save(results, output)
                print(as_line(results["rows"][-1]), file=sys.stderr, flush=True)
    print(as_table(results))
    if others := strangers(results):
        sys.exit(f"Not the same job: {', '.join(others)}")


if __name__ == "__main__":
    tyro.cli(main)
