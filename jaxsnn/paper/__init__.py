"""The experiment of Diehl et al. 2015: networks, data, training, and the command line."""

from typing import Literal

EngineName = Literal["auto", "scan", "events"]
