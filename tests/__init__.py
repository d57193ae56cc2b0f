"""Tests mirror the package; `tiny_models` makes the stand-ins they run on."""
