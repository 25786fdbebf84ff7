"""Training of the paper's networks, by the name under which it is documented."""

from jaxsnn.paper.training import (
    RECIPES,
    LabelledImages,
    Recipe,
    accuracy,
    cross_entropy,
    fit,
    one_sided_squared_error,
    random_warp,
    squared_error,
)

__all__ = [
    "RECIPES",
    "LabelledImages",
    "Recipe",
    "accuracy",
    "cross_entropy",
    "fit",
    "one_sided_squared_error",
    "random_warp",
    "squared_error",
]
