"""Training a recipe, and what is asked of a trained run."""
