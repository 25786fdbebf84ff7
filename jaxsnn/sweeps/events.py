"""A piece of a sweep in the event-driven engine: the points of a block, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np

from jaxsnn import encoding, metrics, neurons, state
from jaxsnn.checks import in_steps, start_potentials
from jaxsnn.draws import sample_keys
from jaxsnn.events.engine import Arrays, Watched, start, watch, wired_network
from jaxsnn.events.wiring import with_thresholds
from jaxsnn.fixed_point import FixedPointNetwork
from jaxsnn.network import AnyArray
from jaxsnn.sweeps.counts import Counts, tails, uniform
from jaxsnn.sweeps.job import Job, Points, at_point
from jaxsnn.sweeps.plan import Block


def event_runner(job: Job, points: Points) -> Callable[[Block, slice], Counts]:
    """A function that simulates the points of a block on some images, and counts.

    The counts are those of the scan in fixed point, bit for bit.
    """
    grid, network = job.grid, points.network
    assert isinstance(network, FixedPointNetwork)
    wired = wired_network(network)
    same = np.array([uniform(found) or 0 for found in metrics.fan_out(network.network)])
    numbers = np.arange(len(job.images), dtype=np.int32)
    keys = [np.asarray(sample_keys(seed, numbers)) for seed in grid.values("seed")]

    def run(block: Block, piece: slice) -> Counts:
        dt = grid.values("dt")[block.dt]
        steps = grid.steps(dt)
        sizes = [cut.stop - cut.start for cut in block[2:]]
        layers = len(job.network.layers)
        whole = Counts(*(np.zeros((*sizes, steps, *t), np.int64) for t in tails(layers)))
        for place in np.ndindex(*sizes):
            seed, rate, point = (cut.start + at for cut, at in zip(block[2:], place, strict=True))
            thresholds, amplitudes = (
                [values[point] for values in varying]
                for varying in (points.thresholds, points.amplitudes)
            )
            chosen = at_point(network, thresholds, amplitudes)
            assert isinstance(chosen, FixedPointNetwork)
            period = in_steps(float(points.refractory_periods[point]), dt)
            one = state.Job(
                network=chosen,
                images=cast(AnyArray, job.images[piece]),
                keys=keys[seed][piece],
                samples=cast(AnyArray, numbers[piece]),
                max_rate=grid.values("max_rate")[rate],
                dt=dt,
                steps=steps,
                refractory_steps=period,
                potentials=start_potentials(chosen, 0.0),
                state=None,
                rules=state.Rules(
                    encode=encoding.poisson,
                    reset=grid.values("reset")[block.reset],
                    spike=neurons.heaviside,
                    read=job.read,
                ),
            )
            of_point = with_thresholds(wired, chosen)
            arrays, done = start(one, of_point), 0
            for watched in watch(one, of_point, arrays, lambda _: None):
                found = _counted(watched, arrays, done, job.labels[piece], same)
                now = slice(done, done + len(watched.predictions))
                for array, values in zip(whole, found, strict=True):
                    array[place][now] = values
                done = now.stop
        return whole

    return run


def _counted(
    watched: Watched, arrays: Arrays, done: int, labels: np.ndarray, same: np.ndarray
) -> Counts:
    """The counts of each step after those that are done, summed over the images."""
    results = watched.results
    predictions = np.asarray(watched.predictions)
    steps = len(predictions)
    spiked = arrays.first_step > done
    first = np.bincount(arrays.first_step[spiked] - 1 - done, minlength=steps)
    right = spiked & (arrays.first_class == labels)
    # Operations behind layers whose neurons have all as many synapses follow from the spikes.
    others = (results.operations - results.totals[..., :-1] @ same).sum(0)
    return Counts(
        right=((predictions == labels) & (predictions >= 0)).sum(1),
        undecided=(predictions < 0).sum(1),
        first=first,
        first_right=np.bincount(arrays.first_step[right] - 1 - done, minlength=steps),
        spikes=results.totals.sum(0, dtype=np.int64),
        operations=np.stack([others >> 16, others & 0xFFFF], -1),
    )
