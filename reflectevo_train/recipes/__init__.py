"""Recipes: one YAML file for each model, setting and method, and the configurations that `accelerate launch` takes."""
