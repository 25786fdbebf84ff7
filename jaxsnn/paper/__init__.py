"""The experiment of Diehl et al. 2015 and one on CIFAR-10: networks, training, commands."""

from typing import Literal

EngineName = Literal["auto", "scan", "events"]
