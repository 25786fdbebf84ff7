"""What engines simulate: one interface for floating-point and for fixed-point networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from jax.typing import ArrayLike

from jaxsnn import encoding, neurons
from jaxsnn.network import Network
from jaxsnn.support.arrays import AnyArray, share_cache
from jaxsnn.support.typed import Numbers

Self = TypeVar("Self", bound="Executable")


def gives_probabilities(max_rate: Any, dt: float) -> Any:
    """Whether a rate is from 0 to 1/dt, so that pixels have probabilities of a spike in a step."""
    return (max_rate >= 0) & (max_rate * dt <= 1 + 1e-6)


class Executable:
    """A spiking network in some arithmetic: a `SpikingNetwork` or a `FixedPointNetwork`.

    Attributes:
        network: the layers and their weights.
        thresholds: for each layer the firing threshold, in steps.
        amplitudes: for each layer what a spike weighs on each of its connections.
        initial_potentials: for each layer the membrane potential at the start; None is 0.
        reset: what becomes of the membrane potential after a spike.
        encode: how pixels drive the first layer.
        step_sizes: for each layer what a potential of 1 stands for, in the units of the original
            thresholds; None where that is 1.
        scale_factors: for each layer the activation that one spike in every step stands for.
    """

    network: Network
    thresholds: list[AnyArray]
    amplitudes: Any
    initial_potentials: list[AnyArray] | None
    reset: neurons.Reset
    encode: encoding.Encoding
    step_sizes: Any
    scale_factors: Any

    @property
    def dtype(self) -> Any:
        """The type of potentials and spikes."""
        raise NotImplementedError

    @property
    def settings(self) -> dict[str, Any]:
        """The fields in which networks may differ that share their weights."""
        raise NotImplementedError

    def probabilities(self, images: Any, max_rate: ArrayLike, dt: float) -> Any:
        """For each input the probability of a spike in a step `[B, ...]`."""
        raise NotImplementedError

    def potentials(self, initial_potential: Numbers) -> list[Any]:
        """Initial potentials in the units of the original thresholds, in those of this network."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise ValueError where the network cannot be simulated, and say why."""

    def check_run(self, steps: int, encode: Any, spike: Any, images: Any = 0.0) -> None:
        """Raise ValueError where a run of so many steps in all is impossible in this arithmetic."""

    def start(self) -> list[AnyArray]:
        """For each layer the membrane potential at the start, in the type of the potentials."""
        return self.initial_potentials or [np.zeros((), self.dtype)] * len(self.thresholds)  # type: ignore[return-value]

    def with_neurons(
        self: Self, initial_potential: Numbers | None, reset: neurons.Reset | None
    ) -> Self:
        """The network with other initial potentials, in the original units, or another reset."""
        changes: dict[str, Any] = {} if reset is None else {"reset": reset}
        if initial_potential is not None:
            changes["initial_potentials"] = self.potentials(initial_potential)
        return share_cache(self, replace(self, **changes)) if changes else self  # type: ignore[type-var]

    def bare(self: Self) -> Self:
        """The network without the functions and potentials that programs get separately.

        So networks that differ in nothing else share compiled programs.
        """
        functions = {"reset": neurons.reset_to_zero, "encode": encoding.poisson}
        return replace(self, initial_potentials=None, **functions)  # type: ignore[type-var]

    def __repr__(self) -> str:
        return str(self)
