"""The event-driven engine, for CPUs: fixed point and floating point.

In a step a few percent of the neurons spike, so that a dense product is for the most part a product
with zeros. This engine adds the weights of those neurons alone that spike. In fixed point it gives
exactly the spikes of the scan. In floating point it adds in a fixed order, the same for every batch
and number of cores: what a neuron receives in every step, then its connections one after the other.
Numba, which compiles it, is imported with the first run.

    runs         a connection as runs of weights
    layout       a network as flat arrays, for the kernels
    run          a run for the kernels, on all cores
    kernels      one image through all steps, compiled by Numba
    compilation  the message shown meanwhile
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jaxsnn import encoding, neurons, readout, stopping
from jaxsnn.conversion.fixed_point import FixedPointNetwork
from jaxsnn.engines.base import Engine, Run, Trajectory


@dataclass(frozen=True)
class Events(Engine):
    """The event-driven engine: on CPUs, a sample at a time on each core.

    It runs on the host also where JAX has an accelerator, for which "auto" takes the scan.

    Example:
        >>> import jaxsnn
        >>> jaxsnn.engines.Events().name
        'events'
    """

    name = "events"

    def unsupported(self, run: Run) -> str | None:
        """Why the events cannot simulate a run, if so."""
        from jaxsnn.engines.events.run import RESETS, layout_of

        behaviour, stop = run.behaviour, run.stop
        if run.traced:
            return "jit, vmap or grad trace the simulation, which only the scan supports"
        fixed = isinstance(run.network, FixedPointNetwork)
        images = run.images
        spread = isinstance(images, jax.Array) and len(images.sharding.device_set) > 1
        # Fixed point has the same spikes anywhere; what other processes have cannot be looked at.
        if spread and not (fixed and images.is_fully_addressable):
            return "the images are spread over several devices"
        if behaviour.record is not None:
            return "record=... needs the scan, which sees every step of a batch"
        if behaviour.encode not in (encoding.poisson, encoding.constant):
            return "it knows the encodings poisson and constant only, and draws spikes itself"
        if behaviour.reset not in RESETS:
            return "it knows the resets reset_to_zero and reset_by_subtraction only"
        if not (fixed or neurons.is_step(behaviour.spike)):
            return "it knows spikes at the threshold only, as heaviside and step_function give them"
        if not (stop is None or stop is stopping.first_spike or type(stop) is stopping.Margin):
            return "it knows the stop rules of jaxsnn.stopping only"
        if stop is not None and readout.start_of(behaviour.read):
            return "its stop rules see what outputs receive from the first step on"
        layout = layout_of(run.network)
        return layout if isinstance(layout, str) else None

    def simulate(self, run: Run, advance: Callable[[int], Any]) -> Trajectory:
        """Simulate a run on all cores."""
        from jaxsnn.engines.events.run import simulate_events

        # Inside of jit, what is known stays known.
        with jax.ensure_compile_time_eval():
            return simulate_events(run, advance)
