"""Recipes: one end-to-end job per module, composed from the lower layers."""
