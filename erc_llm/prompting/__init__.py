"""Scenes become token trees: templates, encoding, trees, and the forest a model reads."""
