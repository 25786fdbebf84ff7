"""The event-driven engine, for fixed-point networks on CPUs.

In a step a few percent of the neurons spike, so that a dense product is for the most part a product
with zeros. This engine adds the weights of those neurons alone that spike, and gives exactly the
spikes of the scan. Numba, which compiles it, is imported with the first run.

    layout    a network as flat arrays, for the kernels
    run       a run for the kernels, on all cores
    kernels   one image through all steps, compiled by Numba
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jaxsnn import encoding, stopping
from jaxsnn.conversion.fixed_point import FixedPointNetwork
from jaxsnn.engines.base import Engine, Run, Trajectory
from jaxsnn.engines.events.layout import unsupported_layer


@dataclass(frozen=True)
class Events(Engine):
    """The event-driven engine: fixed point, CPUs, a sample at a time on each core.

    Example:
        >>> import jaxsnn
        >>> jaxsnn.engines.Events().name
        'events'
    """

    name = "events"

    def unsupported(self, run: Run) -> str | None:
        """Why the events cannot simulate a run, if so."""
        network, stop = run.network, run.stop
        if not isinstance(network, FixedPointNetwork):
            return "the network is not in fixed point (arithmetic=FixedPoint(...) or quantize)"
        if run.traced:
            return "jit, vmap or grad trace the simulation, which only the scan supports"
        if jax.default_backend() != "cpu":
            return f"it is for CPUs, and JAX runs on {jax.default_backend()}"
        if run.behaviour.record is not None:
            return "it records nothing; take the scan for record=..."
        if run.behaviour.encode is not encoding.poisson:
            return "it draws its own input, as encoding.poisson does, and knows no other"
        if not (stop is None or stop is stopping.first_spike or type(stop) is stopping.Margin):
            return "it knows the stop rules of jaxsnn.stopping only"
        return unsupported_layer(network.network)

    def simulate(self, run: Run, advance: Callable[[int], Any]) -> Trajectory:
        """Simulate a run on all cores."""
        from jaxsnn.engines.events.run import simulate_events

        return simulate_events(run, advance)
