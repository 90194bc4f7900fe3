"""Training: recipes as values, and one loop."""

from nasattn.train.loop import Epoch, evaluate_top1, train_model
from nasattn.train.recipe import RECIPES, Recipe

__all__ = ["RECIPES", "Epoch", "Recipe", "evaluate_top1", "train_model"]
