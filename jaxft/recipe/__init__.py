"""Recipes: YAML in, frozen typed configs out."""
