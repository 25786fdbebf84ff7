"""Sweeps over grids of thresholds, rates and seeds.

grid                   settings and their labels
points                 network, images and points, checked
plan                   blocks of points and batches of images that fit in memory
run                    the blocks, one after the other, in any engine
dataset                the labelled dataset that is made of the counts
store                  the file of a sweep that may be killed
files                  checksums, and what a netCDF file may contain before it is read
results, plotting      what to choose, and what to look at
"""

from jaxsnn.sweeps import plotting
from jaxsnn.sweeps.grid import Grid
from jaxsnn.sweeps.results import best, load_sweep, pareto_front
from jaxsnn.sweeps.run import sweep
from jaxsnn.sweeps.store import save_sweep

__all__ = ["Grid", "best", "load_sweep", "pareto_front", "plotting", "save_sweep", "sweep"]
