"""Prompting: turns scenes into token trees with templates, encoding, names and state."""
