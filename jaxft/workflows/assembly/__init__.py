"""From a recipe to the parts of a run."""
