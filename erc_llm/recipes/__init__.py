"""Recipes: one end-to-end job a module, composed from the parts below."""
