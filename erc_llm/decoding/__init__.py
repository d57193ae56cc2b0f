"""Decoding: label distributions and generated labels from token trees."""
