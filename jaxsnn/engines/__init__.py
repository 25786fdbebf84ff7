"""Engines: what simulates a run, and the choice among them.

base     what an engine is, what it is given, and what it returns
checks   what a run requires of its arguments
scan     the compiled loop over time, for all devices
events   the event-driven engine, for CPUs
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import jax

from jaxsnn.conversion.executable import Executable
from jaxsnn.engines.base import Counts, Engine, Run, State, Step, Trajectory
from jaxsnn.engines.events import Events
from jaxsnn.engines.scan import Scan
from jaxsnn.support.warn import warn

__all__ = [
    "Counts",
    "Engine",
    "EngineChoice",
    "Events",
    "Executable",
    "Run",
    "Scan",
    "State",
    "Step",
    "Trajectory",
    "choose",
    "names",
    "register",
]

EngineChoice = Annotated[
    str | Engine, "the name of an engine or an engine, such as jaxsnn.engines.Scan(batch_size=100)"
]
_ENGINES: dict[str, Engine] = {}


def register(engine: Engine) -> None:
    """Let `simulate` and `sweep` know an engine by its name.

    Args:
        engine: an engine, with its default options.

    Raises:
        ValueError: another engine has this name.

    Example:
        >>> import jaxsnn
        >>> class Fast(jaxsnn.engines.Scan):
        ...     name = "scan"
        >>> jaxsnn.engines.register(Fast())
        Traceback (most recent call last):
        ...
        ValueError: there is an engine of the name 'scan'; choose another name.
    """
    if engine.name == "auto" or engine.name in _ENGINES:
        raise ValueError(f"there is an engine of the name {engine.name!r}; choose another name.")
    _ENGINES[engine.name] = engine


def names() -> list[str]:
    """The names of the engines.

    Example:
        >>> import jaxsnn
        >>> jaxsnn.engines.names()[:2]
        ['scan', 'events']
    """
    return list(_ENGINES)


for _engine in (Scan(), Events()):
    register(_engine)


def choose(engine: EngineChoice, run: Run, *, scan: Scan | None = None) -> Engine:
    """The engine of a name, or the best for a run.

    Args:
        engine: an engine, its name, or "auto": the events where they support the run, else the
            scan.
        run: what it has to simulate.
        scan: the options of the scan, where it is chosen by its name.

    Raises:
        ValueError: there is no such engine, or it does not support the run.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), jnp.zeros((1, 2)))
        >>> snn = jaxsnn.balance_thresholds(network, 1.0)
        >>> jaxsnn.simulate(snn, jnp.ones((1, 2)), key=0, engine="events",
        ...                 record=lambda step: step.spikes)
        Traceback (most recent call last):
        ...
        ValueError: engine="events" does not support this run: record=... needs the scan, which \
sees every step of a batch.
    """
    chosen = engine
    if isinstance(engine, str):
        if engine != "auto" and engine not in _ENGINES:
            raise ValueError(f"engine={engine!r}; there are {', '.join(['auto', *names()])}.")
        chosen = _ENGINES["scan" if engine == "auto" else engine]
        if engine == "auto" and scan is None and jax.default_backend() == "cpu":
            events = _ENGINES["events"]
            reason = events.unsupported(run)
            if reason is None:
                return events
            _tell_of_slower_scan(run, reason)
        if scan is not None and isinstance(chosen, Scan):
            chosen = scan
    assert isinstance(chosen, Engine)
    reason = chosen.unsupported(run)
    if reason is not None:
        raise ValueError(f'engine="{chosen.name}" does not support this run: {reason}.')
    return chosen


def _tell_of_slower_scan(run: Run, reason: str) -> None:
    """Say once why a run on a CPU is not simulated by the events; what JAX traces cannot be."""
    if not run.traced:
        _warn_once(
            "this run is simulated by the scan, which is slower on CPUs than the event-driven "
            f"engine: {reason}."
        )


@lru_cache
def _warn_once(text: str) -> None:
    warn(text)
