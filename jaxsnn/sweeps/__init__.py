"""Sweeps over grids of thresholds, rates and seeds.

Grid                   settings and their labels
Job                    network, images and points, checked
Plan                   blocks of points and pieces of images that fit in memory
program                the compiled program, on all devices
Counts                 what it counts, and the dataset that is made of them
Store                  the file of a sweep that may be killed
files                  checksums, and what a netCDF file may hold before it is read
results, plotting      what to choose, and what to look at
"""

from jaxsnn.sweeps import plotting
from jaxsnn.sweeps.grid import Grid
from jaxsnn.sweeps.results import best, load_sweep, pareto_front
from jaxsnn.sweeps.run import sweep
from jaxsnn.sweeps.store import save_sweep

__all__ = ["Grid", "best", "load_sweep", "pareto_front", "plotting", "save_sweep", "sweep"]
