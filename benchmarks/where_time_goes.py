"""Where does the time of a call go, in each engine? `profile.py` runs this.

The pieces of the scan are timed alone, each in a scan of its own over arrays of the same shapes;
what the whole takes beyond them is the rest, which is below zero where the whole is faster than its
parts. Of the event-driven engine the kernels are timed, alone, and what is around them. All this
looks inside jaxsnn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from common import (
    DT,
    MODELS,
    RESULTS,
    Name,
    Source,
    Trained,
    captured,
    interleaved,
    medians,
    new_results,
    save,
    save_figure,
)
from jax import Array, lax

import jaxsnn
from jaxsnn import metrics
from jaxsnn.engines import Events, Executable, Run, scan
from jaxsnn.engines.base import State, initial_state, no_progress, segments
from jaxsnn.engines.events import run as events
from jaxsnn.engines.scan import loop
from jaxsnn.engines.scan.integers import FORMATS
from jaxsnn.engines.scan.lowering import Compiled, Formats, compiled, fastest_formats
from jaxsnn.support.figures import COLORS, DARK, SMALL, new_figure

PARTS = ("kernels", "input", "weights", "neurons", "counts", "readout", "call", "rest")
RATES = ("operations (G/s)", "additions (G/s)")  # of the kernels, in billions a second
LARGEST = 10_000  # image-steps of a call of the scan: larger batches get fewer steps

Jobs = dict[str, Callable[[], Any]]


# -- The scan --------------------------------------------------------------------------------------


class Segment(NamedTuple):
    """What the scan makes of a run, for its first segment.

    Attributes:
        run: the run.
        state: where it starts.
        steps: how many steps it does.
        chunk: how many of them a layer goes through at a time.
        formats: what computes products of integers.
    """

    run: Run
    state: State
    steps: int
    chunk: int
    formats: Formats


def first_segment(run: Run, formats: Formats) -> Segment:
    """The first segment of a run, as the scan sees it."""
    steps = segments(run.steps, scan._STEPS_PER_SEGMENT)[0]
    chunk = min(scan._fitting_chunk(run), steps)
    return Segment(run, initial_state(run), steps, chunk, formats)


def looped(
    segment: Segment, make: Callable[[Compiled], Callable], carry: Any, given: Any
) -> Callable[[], Any]:
    """A piece of the scan alone, once for each chunk.

    Args:
        segment: what is run.
        make: the layers ↦ the piece, (carry, given) ↦ (carry, output).
        carry: what the piece hands on from chunk to chunk.
        given: what it gets anew in each.

    Returns:
        The job.
    """

    @jax.jit
    def job(network: Executable, carry: Any, given: Any) -> Any:
        piece = make(compiled(network, segment.formats))

        def chunk(state: Any, _: None) -> tuple[Any, None]:
            # The barriers keep XLA from computing once what is the same in all chunks, and from
            # leaving out what nobody looks at.
            mark, carry, here = lax.optimization_barrier((*state, given))
            carry, output = piece(carry, here)
            leaves = jax.tree.leaves(lax.optimization_barrier(output))
            mark += sum(leaf.reshape(-1)[0].astype(mark.dtype) for leaf in leaves)
            return (mark, carry), None

        chunks = segment.steps // segment.chunk
        return lax.scan(chunk, (jnp.zeros(()), carry), None, length=chunks)[0][0]

    return partial(job, segment.run.network.bare(), carry, given)


def scan_pieces(segment: Segment) -> Jobs:
    """The pieces of the scan, each alone."""
    run, length = segment.run, segment.chunk
    network, behaviour = run.network.network, run.behaviour
    dtype, random = run.network.dtype, np.random.default_rng(0)
    shapes = [(length, len(run.keys), *s) for s in (network.input_shape, *network.shapes)]
    spikes = [jnp.asarray(random.random(shape) < 0.1, dtype) for shape in shapes]
    potentials = jnp.zeros((length, len(run.keys), *network.shapes[-1]), dtype)

    def draw(layers: Compiled) -> Callable:
        def piece(step: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
            keys = jax.random.wrap_key_data(given[0], impl="threefry2x32")

            def at(step: Array) -> Array:
                step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
                return jax.vmap(behaviour.encode)(step_keys, given[1]).astype(layers.dtype)

            return step + length, jax.vmap(at)(step + jnp.arange(length))

        return piece

    def weights(layers: Compiled) -> Callable:
        def piece(none: Any, given: list[Array]) -> tuple[Any, list[Array]]:
            currents = [row[0][1] for row in layers.connections]  # of chains
            pairs = zip(currents, given, strict=True)
            return none, [loop._at_once(current, spikes) for current, spikes in pairs]

        return piece

    def fire(layers: Compiled) -> Callable:
        def piece(old: list, given: list[Array]) -> tuple[list, list]:
            found = []
            for threshold, state, currents in zip(layers.thresholds, old, given, strict=True):
                one = partial(loop._fire, threshold, behaviour, jnp.int32(0), False)
                found.append(loop._through(one, (state, None), currents, length))
            return [state for (state, _), _ in found], [spikes for _, (spikes, *_) in found]

        return piece

    def count(layers: Compiled) -> Callable:
        def piece(counts: list[Array], given: list[Array]) -> tuple[list[Array], list[Array]]:
            inputs, *others = given
            given = [(inputs != 0).astype(layers.dtype), *others]
            counts = [loop._counted(old, s, None) for old, s in zip(counts, given, strict=True)]
            return counts, counts

        return piece

    def read(layers: Compiled) -> Callable:
        def piece(state: State, given: list[Array]) -> tuple[State, tuple[Array, Array]]:
            ends = state.step + 1 + jnp.arange(length)
            return loop._read(layers, behaviour, None, state, ends, *given)[:2]

        return piece

    state = segment.state
    counts = [state.input_spike_counts, *state.spike_counts]
    probabilities = run.probabilities.astype(dtype)
    return {
        "input": looped(segment, draw, jnp.int32(0), (jnp.asarray(run.keys), probabilities)),
        "weights": looped(segment, weights, (), spikes[:-1]),
        "neurons": looped(segment, fire, state.neurons, spikes[1:]),
        "counts": looped(segment, count, counts, spikes),
        "readout": looped(segment, read, state, [spikes[-1], potentials, potentials]),
    }


def parts_of_scan(
    network: Executable, images: np.ndarray, steps: int, number_format: str, repeats: int
) -> dict[str, Any]:
    """Microseconds of an image-step in each part of the scan, whose products have a format."""
    # There are none in floating point.
    formats = tuple((kind, FORMATS[number_format]) for kind, _ in fastest_formats(network))
    some = jnp.asarray(images)

    def call(steps: int) -> jaxsnn.Simulation:
        duration = steps * DT
        with mock.patch.object(scan, "fastest_formats", return_value=formats):
            return jaxsnn.simulate(
                network, some, key=0, duration=duration, engine="scan", progress=False
            )

    segment = first_segment(captured(scan.Scan, network, some, steps), formats)
    jobs: Jobs = {"whole": partial(call, steps), "one step": partial(call, 1)}
    seconds = interleaved(jobs | scan_pieces(segment), repeats)
    found = medians(seconds)
    whole, one = found.pop("whole"), found.pop("one step")
    # Parts of the batch and of the time follow each other; so do the chunks of a part.
    in_chunks = segment.steps // segment.chunk * segment.chunk
    share = ceil(len(images) / len(segment.run.keys)) * steps / in_chunks
    call_only = max(0.0, (steps * one - whole) / (steps - 1))
    parts = {name: value * share for name, value in found.items()} | {"call": call_only}
    parts["rest"] = whole - sum(parts.values())
    return {
        **_of_an_image_step(whole, parts, len(images) * steps),
        "steps": steps,
        "chunk": segment.chunk,
        "seconds": seconds,
    }


def _of_an_image_step(whole: float, parts: dict[str, float], image_steps: int) -> dict[str, Any]:
    """Seconds of a call and of its parts, as microseconds of an image-step."""
    scale = 1e6 / image_steps
    return {
        "whole": whole * scale,
        "parts": {name: parts[name] * scale for name in PARTS if name in parts},
        "call (ms)": 1e3 * parts["call"],
    }


# -- The event-driven engine -----------------------------------------------------------------------


def kernels_of(run: Run) -> Callable[[], None]:
    """The kernels alone: all steps of a run, on all cores, from fresh arrays each time."""
    layout = events.layout_of(run.network)
    start = partial(events._start, run, layout)
    layout = layout._replace(tables=events._fitting_kinds(run, layout, start()))
    settings, inputs = events._settings(run, 0, run.steps), events._inputs(run, layout)

    def kernels() -> None:
        results = events._results(run, run.steps)
        events._run_kernels(layout, settings, inputs, start(), results, no_progress)

    return kernels


def weights_added(run: Run, found: jaxsnn.Simulation) -> float:
    """How many weights the kernels add: synaptic operations, but for inputs that usually spike.

    Those are added once, and taken away in the steps in which they do not spike.
    """
    usual = np.asarray(run.probabilities) > 0.5
    sent = found.input_spike_counts
    added = np.where(usual, 1 + run.steps - sent, sent)
    synapses = metrics.fan_out(run.network.network)
    return float(metrics.operations(synapses, [added, *found.spike_counts[:-1]]).sum())


def work_of(run: Run, found: jaxsnn.Simulation, seconds: float) -> dict[str, Any]:
    """What the kernels have done for a result in so many seconds."""
    layers = [f"layer {i}: {layer.kind}" for i, layer in enumerate(run.network.network.layers, 1)]
    counts = zip(["inputs", *layers], [found.input_spike_counts, *found.spike_counts], strict=True)
    image_steps = len(run.images) * run.steps
    operations = float(found.synaptic_operations.sum()), weights_added(run, found)
    return {
        "spikes in a step": {name: float(count.sum()) / image_steps for name, count in counts},
        **{name: done / seconds / 1e9 for name, done in zip(RATES, operations, strict=True)},
    }


def parts_of_events(
    network: Executable, images: np.ndarray, steps: int, repeats: int
) -> dict[str, Any]:
    """Microseconds of an image-step in the kernels and around them, and what they did."""
    run = captured(Events, network, images, steps)

    def call() -> jaxsnn.Simulation:
        return jaxsnn.simulate(
            network, images, key=0, duration=steps * DT, engine="events", progress=False
        )

    seconds = interleaved({"whole": call, "kernels": kernels_of(run)}, repeats)
    whole, kernels = medians(seconds).values()
    parts = {"kernels": kernels, "call": whole - kernels}
    return {
        **_of_an_image_step(whole, parts, len(images) * steps),
        **work_of(run, call(), kernels),
        "steps": steps,
        "seconds": seconds,
    }


# -- Tables and the figure -------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    """Microseconds of an image-step in each part, and how fast the kernels work."""
    shown = [
        {key: row[key] for key in ("network", "batch", "engine")}
        | {"chunk": row.get("chunk", ""), "whole (µs)": f"{row['whole']:.1f}"}
        | {name: f"{row['parts'][name]:.1f}" if name in row["parts"] else "" for name in PARTS}
        | {"a call (ms)": f"{row['call (ms)']:.1f}"}
        | {name: f"{row[name]:.1f}" if name in row else "" for name in RATES}
        for row in rows
    ]
    return pd.DataFrame(shown).to_markdown(index=False, disable_numparse=True)


def spikes_table(rows: list[dict[str, Any]]) -> str:
    """How many spikes there are in a step, which is what the events work for."""
    found = {row["network"]: row["spikes in a step"] for row in rows if "spikes in a step" in row}
    shown = [
        {"network": network, "": name, "spikes in a step": f"{count:.1f}"}
        for network, spikes in found.items()
        for name, count in spikes.items()
    ]
    return pd.DataFrame(shown).to_markdown(index=False, disable_numparse=True)


def draw(rows: list[dict[str, Any]]) -> Any:
    """A panel for each network and batch, a bar for each engine, a colour for each part."""
    data = pd.DataFrame(rows)
    networks, batches = data["network"].unique(), data["batch"].unique()
    figure = new_figure(3.9 * len(batches), 2.5 * len(networks) + 0.4)
    grid = figure.subplots(len(networks), len(batches), squeeze=False)
    colors = dict(zip(PARTS, ("#F0E442", *COLORS, "#bbbbbb"), strict=True))
    for (network, batch), ax in zip(product(networks, batches), grid.ravel(), strict=True):
        found = data[(data["network"] == network) & (data["batch"] == batch)]
        places = np.arange(len(found))
        left = np.zeros(len(found))
        for part in PARTS:
            width = np.array([max(0.0, parts.get(part, 0.0)) for parts in found["parts"]])
            ax.barh(places, width, left=left, color=colors[part], label=part, height=0.7)
            left += width
        ax.plot(found["whole"], places, "|", color=DARK, ms=14, mew=1.5, label="the whole")
        ax.set_yticks(places, found["engine"] if ax in grid[:, 0] else [""] * len(found))
        ax.set_title(f"{network}, {batch} image{'s' if batch > 1 else ''}", fontsize=10)
        ax.invert_yaxis()
        ax.tick_params(labelsize=SMALL)
        ax.grid(axis="x", color="#dddddd", lw=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in grid[-1]:
        ax.set_xlabel("µs of an image-step")
    lines, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=2 + len(batches), frameon=False)
    return figure


# -- The command line ------------------------------------------------------------------------------


def profile(
    snn: jaxsnn.SpikingNetwork, images: np.ndarray, steps: int, repeats: int
) -> Iterator[dict[str, Any]]:
    """The parts of all engines for one network and batch."""
    fixed = jaxsnn.quantize(snn)
    fewer = max(10, min(steps, LARGEST // len(images)))
    scans: dict[str, tuple[Executable, str]] = {"float32, scan": (snn, "float32")}
    scans |= {f"8 bits, scan in {name}": (fixed, name) for name in FORMATS}
    for name, (network, number_format) in scans.items():
        yield {"engine": name} | parts_of_scan(network, images, fewer, number_format, repeats)
    yield {"engine": "8 bits, events"} | parts_of_events(fixed, images, steps, repeats)


def main(
    source: Source = Trained(),  # noqa: B008 - it is frozen
    networks: tuple[Name, ...] = tuple(MODELS),
    batches: tuple[int, ...] = (1, 20, 500),
    steps: int = 100,
    repeats: int = 5,
    quick: bool = False,
    output: Path = RESULTS / "profile.json",
) -> None:
    """Measure where the time of a call goes.

    Args:
        source: where networks and data come from.
        networks: which of the paper's networks.
        batches: images simulated together.
        steps: time steps of 1 ms; the scan does fewer for large batches.
        repeats: interleaved measurements of each; the table has their medians.
        quick: a short run that only shows that everything works.
        output: the file for the results, written after each engine.
    """
    if quick:
        batches, steps, repeats = (2,), 20, 1
    results = new_results(steps=steps, repeats=repeats) | {"rows": []}
    for name, batch in product(networks, batches):
        images = source.data[1].images[:batch]
        for row in profile(source.spiking(name), images, steps, repeats):
            results["rows"].append({"network": name, "batch": len(images)} | row)
            save(results, output)
            print(name, batch, row["engine"], "done", file=sys.stderr, flush=True)
    save_figure(draw(results["rows"]), output)
    print(table(results["rows"]), end="\n\n")
    print(spikes_table(results["rows"]))
