"""The event-driven engine, for fixed-point networks on CPUs.

In a step a few percent of the neurons spike, so that a dense product is for the most part a product
with zeros. This engine adds the weights of those neurons alone that spike. It needs Numba, and
gives exactly the spikes of the scan.

    kernels   one image through all steps, compiled by Numba
    wiring    a network as flat arrays, for the kernels
    engine    a job for the kernels, on all cores
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal, get_args

import jax

from jaxsnn import encoding, stopping
from jaxsnn.events.wiring import why_not as why_not_network
from jaxsnn.fixed_point import FixedPointNetwork
from jaxsnn.network import AnyArray
from jaxsnn.state import Job, Rules, State
from jaxsnn.synapses import AnyNetwork
from jaxsnn.warn import warn

Engine = Literal["auto", "scan", "events", "pallas"]
INSTALL = 'pip install "jaxsnn-conversion[fast]"'


def serve(
    engine: Engine,
    network: AnyNetwork,
    rules: Rules,
    stop: stopping.Stop | None = None,
    *,
    traced: bool,
) -> bool:
    """Whether the events simulate this: if asked to, or if they can and nobody says otherwise.

    Raises:
        ValueError: they are asked to, and cannot; or there is no such engine.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"engine={engine!r}; there are {', '.join(get_args(Engine))}.")
    if engine in ("scan", "pallas"):
        return False
    reason = why_not(network, rules, stop, traced)
    if reason is None and find_spec("numba") is None:
        reason = f"Numba is not installed: {INSTALL}"
        if engine == "auto":
            _say_once(f"the scan simulates fixed-point networks many times slower, for {reason}")
    if reason is not None and engine == "events":
        raise ValueError(f'engine="events" cannot serve: {reason}.')
    return reason is None


def why_not(
    network: AnyNetwork, rules: Rules, stop: stopping.Stop | None, traced: bool
) -> str | None:
    """Why the events cannot serve a simulation, if so; Numba apart."""
    if not isinstance(network, FixedPointNetwork):
        return "the network is not in fixed point (arithmetic=FixedPoint(...) or quantize)"
    if traced:
        return "jit, vmap or grad trace the simulation, which only the scan can follow"
    if jax.default_backend() != "cpu":
        return f"it is for CPUs, and JAX runs on {jax.default_backend()}"
    if rules.record is not None:
        return "it records nothing; take the scan for record=..."
    if rules.encode is not encoding.poisson:
        return "it draws its own input, as encoding.poisson does, and knows no other"
    known = stop is stopping.first_spike or type(stop) is stopping.Margin
    if stop is not None and not known:
        return "it knows the stop rules of jaxsnn.stopping only"
    return why_not_network(network)


@lru_cache
def _say_once(text: str) -> None:
    warn(text)


def run(job: Job, advance: Callable[[int], Any]) -> tuple[State, AnyArray, None]:
    """Simulate a job that `serve` has found fit: the last state, and predictions `[T, B]`."""
    from jaxsnn.events.engine import simulate_events

    return simulate_events(job, advance)
