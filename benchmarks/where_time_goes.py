"""Where does the time of a call go, in each engine? `profile.py` runs this.

The pieces of the scan are timed alone, each in a scan of its own over arrays of the same shapes;
those of the event-driven engine are its kernels, driven by the spikes of a real run. What the whole
takes beyond them is the rest; it is below zero where the whole is faster than its parts. All this
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
from numba import njit

import jaxsnn
from jaxsnn.engines import Events, Executable, Run, scan
from jaxsnn.engines.base import State, initial_state, segments
from jaxsnn.engines.events import kernels, kinds
from jaxsnn.engines.events import run as events
from jaxsnn.engines.events.layout import Layout
from jaxsnn.engines.scan import loop
from jaxsnn.engines.scan.integers import FORMATS
from jaxsnn.engines.scan.lowering import Compiled, Formats, compiled, fastest_formats
from jaxsnn.support.figures import COLORS, DARK, SMALL, new_figure

PARTS = ("input", "weights", "neurons", "counts", "readout", "call", "rest")
RECORDED = 50  # images whose spikes are recorded; larger batches repeat them
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
                found.append(loop._through(one, state, currents, length))
            return [state for state, _ in found], [spikes for _, (spikes, _) in found]

        return piece

    def count(layers: Compiled) -> Callable:
        def piece(counts: list[Array], given: list[Array]) -> tuple[list[Array], list[Array]]:
            inputs, *others = given
            given = [(inputs != 0).astype(layers.dtype), *others]
            counts = [loop._counted(old, s, None) for old, s in zip(counts, given, strict=True)]
            return counts, counts

        return piece

    def read(layers: Compiled) -> Callable:
        return lambda state, given: loop._read(layers, behaviour, None, state, *given)[:2]

    state = segment.state
    counts = [state.input_spike_counts, *state.spike_counts]
    probabilities = run.probabilities.astype(dtype)
    return {
        "input": looped(segment, draw, jnp.int32(0), (jnp.asarray(run.keys), probabilities)),
        "weights": looped(segment, weights, (), spikes[:-1]),
        "neurons": looped(segment, fire, state.neurons, spikes[1:]),
        "counts": looped(segment, count, counts, spikes),
        "readout": looped(segment, read, state, (spikes[-1], potentials)),
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
    parts = {name: value * share for name, value in found.items()}
    return {
        **_with_rest(parts, whole, one, steps, len(images)),
        "steps": steps,
        "chunk": segment.chunk,
        "seconds": seconds,
    }


def _with_rest(
    parts: dict[str, float], whole: float, one: float, steps: int, batch: int
) -> dict[str, Any]:
    """Parts of a call, the cost of a call without its steps, and the rest: microseconds."""
    call = max(0.0, (steps * one - whole) / (steps - 1))
    parts = parts | {"call": call, "rest": whole - call - sum(parts.values())}
    scale = 1e6 / (batch * steps)
    return {
        "whole": whole * scale,
        "parts": {name: parts[name] * scale for name in PARTS if name in parts},
        "call (ms)": 1e3 * call,
    }


# -- The event-driven engine -----------------------------------------------------------------------


class Recorded(NamedTuple):
    """Who spiked, for the kernels: lists for each image and step.

    ======  =================  =====================================================
    field   shape              meaning
    ======  =================  =====================================================
    who     [.]                places of inputs and neurons, list after list
    ends    [N, T, L + 2, 2]   where each list begins and ends: inputs that are added,
                               inputs that are taken away, and the spikes of each layer
    bases   [N, neurons]       currents of the first layer from inputs that usually spike
    ======  =================  =====================================================
    """

    who: np.ndarray
    ends: np.ndarray
    bases: np.ndarray


def record(run: Run, layout: Layout) -> tuple[Recorded, dict[str, float]]:
    """The spikes of the run's first images, and how many there are in a step."""
    count = min(RECORDED, len(run.images))
    recorded = jaxsnn.simulate(
        run.network,
        run.images[:count],
        key=0,
        duration=run.steps * DT,
        engine="scan",
        record=lambda step: [x > 0 for x in (step.inputs, *step.spikes)],
        progress=False,
    )
    records = (np.asarray(r).swapaxes(0, 1) for r in recorded.records)
    inputs, *layers = (r.reshape(count, run.steps, -1) for r in records)
    usual = (events._inputs(run).wanted[:count] > kernels._HALF)[:, None]
    lists = [inputs & ~usual, usual & ~inputs]
    for layer, order in zip(layers, layout.orders, strict=True):
        placed = np.zeros_like(layer)
        placed[..., order.reshape(-1)] = layer
        lists.append(placed)
    sizes = np.stack([found.sum(-1) for found in lists], -1)
    flags = np.concatenate(lists, -1)
    starts = np.cumsum([0, *(found.shape[-1] for found in lists[:-1])])
    places = np.nonzero(flags)[2]
    who = places - starts[np.searchsorted(starts, places, "right") - 1]
    last = sizes.reshape(-1).cumsum().reshape(sizes.shape)
    bases = np.zeros((count, layout.tables.first[1]), layout.tables.currents.dtype)
    for image, base in enumerate(bases):
        _base(np.flatnonzero(usual[image, 0]), layout.tables, base)
    names = ["inputs", "inputs added", "inputs taken away"]
    names += [f"layer {index}: {layer.kind}" for index, layer in _numbered(run.network)]
    means = [inputs.sum(-1).mean(), *sizes.mean((0, 1))]
    spikes = dict(zip(names, map(float, means), strict=True))
    return Recorded(who, np.stack([last - sizes, last], -1), bases), spikes


def _numbered(network: Executable) -> Iterator[tuple[int, Any]]:
    return iter(enumerate(network.network.layers, 1))


@njit(nogil=True)
def _base(usual, tables, base):
    weights = tables.weights[: tables.first_weight[1]]
    kernels._receive(tables.kinds[0], base, weights, usual, tables.starts, tables.runs)


@njit(nogil=True)
def _draw(images, inputs, steps):
    """Draw the inputs of some images."""
    room = ((len(inputs.wanted[0]) + 3) // 4 + 7) // 8 * 8
    flags = np.zeros((4, room), np.uint8)
    draws = kernels.Draws(
        np.empty(room, np.uint32),
        np.empty(room, np.uint32),
        np.empty(room, np.uint32),
        np.zeros((4, room), np.uint32),
        np.zeros((4, room), np.int64),
        flags,
        flags.reshape(-1).view(np.uint64),
    )
    some, found = np.empty(room, np.int64), np.empty(4 * room + 2, np.int64)
    count = 0
    for image in images:
        kernels._clear(flags.reshape(-1))
        size = kernels._needed_blocks(inputs.wanted[image], draws)
        for step in range(steps):
            count += kernels._draw(inputs.keys[image], step, draws, size, some, found)
    return count


@njit(nogil=True)
def _add_weights(images, tables, recorded, steps):
    """Add the weights of those that spiked to the currents of the next layer."""
    current = np.zeros(len(tables.thresholds), tables.currents.dtype)
    first, layers = tables.first, len(tables.kinds)
    for image in images:
        place = image % len(recorded.ends)
        for step in range(steps):
            ends = recorded.ends[place, step]
            now = current[: first[1]]
            weights = tables.weights[: tables.first_weight[1]]
            more, less = (
                recorded.who[ends[0, 0] : ends[0, 1]],
                recorded.who[ends[1, 0] : ends[1, 1]],
            )
            kernels._copy(now, recorded.bases[place])
            kernels._receive(tables.kinds[0], now, weights, more, tables.starts, tables.runs)
            kernels._take_away(tables.kinds[0], now, weights, less, tables.starts, tables.runs)
            for layer in range(1, layers):
                if tables.kinds[layer] != kinds.POOL:
                    now = current[first[layer] : first[layer + 1]]
                    who = recorded.who[ends[layer + 1, 0] : ends[layer + 1, 1]]
                    weights = tables.weights[tables.first_weight[layer] :]
                    starts = tables.starts[tables.first_start[layer] :]
                    kernels._clear(now)
                    kernels._receive(tables.kinds[layer], now, weights, who, starts, tables.runs)
    return current[0]


@njit(nogil=True)
def _update_neurons(images, tables, recorded, steps):
    """Bring those to their thresholds that spiked, look at all neurons, and reset."""
    width = len(tables.thresholds)
    current, counts = np.zeros(width, tables.currents.dtype), np.zeros(width, np.int32)
    flags, seen = np.zeros(width, np.uint8), np.zeros(width, np.uint8)
    words, found = flags.view(np.uint64), np.empty(width + 2, np.int64)
    some = np.empty(width, np.int64)
    potentials, free = np.zeros(width, np.int32), np.zeros(0, np.int32)
    first = tables.first
    for image in images:
        place = image % len(recorded.ends)
        kernels._clear(potentials)
        for step in range(steps):
            ends = recorded.ends[place, step]
            for layer in range(len(tables.kinds)):
                low, high = first[layer], first[layer + 1]
                potential, threshold = potentials[low:high], tables.thresholds[low:high]
                if tables.kinds[layer] == kinds.POOL:
                    who = recorded.who[ends[layer + 1, 0] : ends[layer + 1, 1]]
                    targets = tables.targets[tables.first_target[layer] :]
                    count = kernels._pool(
                        potential,
                        threshold,
                        tables.gains[layer],
                        who,
                        targets,
                        free,
                        step,
                        found,
                        seen[low:high],
                    )
                else:
                    for j in recorded.who[ends[layer + 2, 0] : ends[layer + 2, 1]]:
                        potential[j] = threshold[j]
                    kernels._integrate(potential, current[low:high], threshold, flags[low:high])
                    count = kernels.flagged(words[low >> 3 : high >> 3], some, found)
                kernels._reset(
                    found[:count], potential, threshold, counts[low:high], free, kinds.TO_ZERO, 0
                )
    return counts.sum()


def parts_of_events(
    network: Executable, images: np.ndarray, steps: int, repeats: int
) -> dict[str, Any]:
    """Microseconds of an image-step in each part of the event-driven engine, on all cores."""
    run = captured(Events, network, images, steps)
    layout = events.layout_of(network)
    start = partial(events._start, run, layout)
    layout = layout._replace(tables=events._fitting_kinds(run, layout, start()))
    recorded, spikes = record(run, layout)
    inputs, settings = events._inputs(run), events._settings(run, 0, steps)

    def call(steps: int) -> jaxsnn.Simulation:
        return jaxsnn.simulate(
            network, images, key=0, duration=steps * DT, engine="events", progress=False
        )

    def on_all_cores(work: Callable, *arguments: Any) -> None:
        list(events._on_all_cores(lambda images: work(images, *arguments), len(images)))

    def all_kernels() -> None:
        events._run_kernels(layout, settings, inputs, start(), lambda count: None)

    seconds = interleaved(
        {
            "whole": partial(call, steps),
            "one step": partial(call, 1),
            "kernels": all_kernels,
            "input": partial(on_all_cores, _draw, inputs, steps),
            "weights": partial(on_all_cores, _add_weights, layout.tables, recorded, steps),
            "neurons": partial(on_all_cores, _update_neurons, layout.tables, recorded, steps),
        },
        repeats,
    )
    found = medians(seconds)
    whole, one, inside = (found.pop(name) for name in ("whole", "one step", "kernels"))
    call_only = max(0.0, (steps * one - whole) / (steps - 1))
    found["readout"] = whole - inside - call_only
    return {
        **_with_rest(found, whole, one, steps, len(images)),
        "steps": steps,
        "spikes in a step": spikes,
        "seconds": seconds,
    }


# -- Tables and the figure -------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    """Microseconds of an image-step in each part."""
    shown = [
        {key: row[key] for key in ("network", "batch", "engine")}
        | {"chunk": row.get("chunk", ""), "whole (µs)": f"{row['whole']:.1f}"}
        | {name: f"{row['parts'][name]:.1f}" if name in row["parts"] else "" for name in PARTS}
        | {"a call (ms)": f"{row['call (ms)']:.1f}"}
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
    colors = dict(zip(PARTS, (*COLORS, "#bbbbbb")))
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
    figure.legend(lines, labels, loc="outside lower center", ncols=4, frameon=False)
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
    pixels = source.data[1].images[:RECORDED]
    for name, batch in product(networks, batches):
        images = pixels[np.arange(batch) % len(pixels)]
        for row in profile(source.spiking(name), images, steps, repeats):
            results["rows"].append({"network": name, "batch": batch} | row)
            save(results, output)
            print(name, batch, row["engine"], "done", file=sys.stderr, flush=True)
    save_figure(draw(results["rows"]), output)
    print(table(results["rows"]), end="\n\n")
    print(spikes_table(results["rows"]))
