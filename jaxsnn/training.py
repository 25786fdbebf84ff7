"""Training of ReLU networks, by the name under which it is documented."""

from jaxsnn.paper.recipes import (
    RECIPES,
    Recipe,
    cross_entropy,
    one_sided_squared_error,
    random_crop_and_flip,
    random_warp,
    squared_error,
)
from jaxsnn.paper.training import LabelledImages, accuracy, fit

__all__ = [
    "RECIPES",
    "LabelledImages",
    "Recipe",
    "accuracy",
    "cross_entropy",
    "fit",
    "one_sided_squared_error",
    "random_crop_and_flip",
    "random_warp",
    "squared_error",
]
