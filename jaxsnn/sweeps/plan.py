"""How a sweep is cut into blocks of points and batches of images, to fit in memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise, product
from math import ceil, prod
from typing import NamedTuple

from jax.sharding import Mesh

from jaxsnn.engines.base import Counts
from jaxsnn.sweeps.points import SweepJob

# What a piece may take on a device; pieces of this size stay in a CPU's caches.
_MEMORY = {"cpu": 1 << 24}
_MEMORY_OF_ACCELERATORS = 1 << 30
_MEMORY_ONE_BY_ONE = 1 << 27
# Programs have memory for a multiple of so many steps, so that few durations need another.
_STEPS = 100
# Operations are summed over images in two halves of 16 bits, spikes as they are: both below 2^31.
_MOST_IMAGES = 1 << 15
_AXES = "points", "images"  # of a mesh
_MOST_SPIKES = (1 << 31) - 1


class Block(NamedTuple):
    """Points that are simulated together, as places on the axes of the counts."""

    reset: int
    dt: int
    seeds: slice
    rates: slice
    points: slice

    @property
    def size(self) -> int:
        """The number of points."""
        return prod(cut.stop - cut.start for cut in (self.seeds, self.rates, self.points))


class Plan(NamedTuple):
    """How a sweep is cut: so many seeds, rates and points in a block, so many images in a piece."""

    seeds: int
    rates: int
    points: int
    images: int

    def blocks(self, job: SweepJob) -> list[Block]:
        """The blocks, in the order in which they are simulated."""
        resets, dts, *sizes = job.shape
        seeds, rates, points = map(_cut, sizes, self[:3])
        outer = product(range(resets), range(dts))
        return [Block(*two, *three) for two in outer for three in product(seeds, rates, points)]

    def batches(self, job: SweepJob) -> list[slice]:
        """The images of each batch of a block."""
        return _cut(len(job.images), self.images)


def planned(job: SweepJob, mesh: Mesh, memory: int | None) -> Plan:
    """The largest blocks and pieces that fit the memory.

    Points first, which share input spikes, then rates, which share random draws, then images.
    """
    _, _, seeds, rates, points = job.shape
    images = len(job.images)
    cost = _Cost.of(job)
    least = cost(1, 1, 1, 1)
    usual = _MEMORY.get(mesh.devices.flat[0].platform, _MEMORY_OF_ACCELERATORS)
    memory = _budget(memory, usual, least)

    def most(size: int, takes: Callable[[int], int]) -> int:
        """As many as fit, in parts of one size."""
        fitting = bisect_right(range(1, size + 1), memory, key=takes)
        return ceil(size / ceil(size / fitting))

    p = most(ceil(points / mesh.shape["points"]), lambda n: cost(1, 1, n, 1))
    r = most(rates, lambda n: cost(1, n, p, 1))
    along = mesh.shape["images"]
    neurons = max(map(prod, (job.network.input_shape, *job.network.shapes)))
    at_most = min(_MOST_IMAGES, _MOST_SPIKES // neurons) // along
    b = most(min(ceil(images / along), max(1, at_most)), lambda n: cost(1, r, p, n))
    s = most(seeds, lambda n: cost(n, r, p, b))
    return Plan(s, r, p * mesh.shape["points"], b * along)


def planned_one_by_one(job: SweepJob, bytes_per_sample: int, memory: int | None) -> Plan:
    """As `planned`, for points that are simulated one by one, on as many images as fit."""
    points, images = job.shape[-1], len(job.images)
    memory = _budget(memory, _MEMORY_ONE_BY_ONE, bytes_per_sample)
    batches = ceil(images / min(memory // bytes_per_sample, _MOST_IMAGES))
    block = max(1, memory // (bytes_per_sample * images)) if batches == 1 else 1
    return Plan(1, 1, min(points, block), ceil(images / batches))


def _budget(memory: int | None, usual: int, least: int) -> int:
    """The bytes that a piece may take: what was given, or else what is fast, which is no limit."""
    if memory is None:
        return max(usual, least)
    if not memory >= least:  # nan too
        raise ValueError(
            f"memory={memory} bytes, but one image at one point takes {least}: give at least that."
        )
    return memory


def check_memory(plan: Plan, job: SweepJob, mesh: Mesh, memory: int | None) -> None:
    """Raise ValueError if the pieces of an earlier plan do not fit."""
    points, images = (ceil(size / mesh.shape[axis]) for size, axis in zip(plan[2:], _AXES))
    needed = _Cost.of(job)(plan.seeds, plan.rates, points, images)
    if memory is not None and needed > memory:
        raise ValueError(
            f"memory={memory} bytes, but this sweep was begun in pieces of {needed}: give at least "
            "that, or delete its folder to begin anew."
        )


class _Cost(NamedTuple):
    """Bytes that a piece takes on a device.

    Attributes:
        state: for each image of each point: potentials, currents, spikes.
        inputs: for each image of each rate: probabilities, draws, spikes, first current.
        counts: for each point.
    """

    state: int
    inputs: int
    counts: int

    @classmethod
    def of(cls, job: SweepJob) -> _Cost:
        """What the neurons of a network take."""
        width = job.network.dtype.itemsize
        layers = [prod(shape) for shape in job.network.shapes]
        pairs = [a + b for a, b in pairwise(layers)] or layers
        counters = 4 * (sum(layers) + max(pairs)) if job.counts_refractory_steps else 0
        counts = 2 * 4 * padded_steps(job) * sum(map(prod, Counts.shapes(len(job.network.layers))))
        inputs = width * (4 * prod(job.network.input_shape) + layers[0])
        return cls(width * (sum(layers) + 2 * max(pairs)) + counters, inputs, counts)

    def __call__(self, seeds: int, rates: int, points: int, images: int) -> int:
        drives = seeds * rates
        return drives * (points * (images * self.state + self.counts) + images * self.inputs)


def _cut(size: int, step: int) -> list[slice]:
    """A range in parts of so many; the last may be smaller."""
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def rounded_up(size: int, multiple: int) -> int:
    """The next multiple."""
    return ceil(size / multiple) * multiple


def padded_steps(job: SweepJob) -> int:
    """The steps that a program has memory for."""
    return rounded_up(job.most_steps, _STEPS)
