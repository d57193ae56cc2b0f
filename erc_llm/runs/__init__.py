"""Run directories: manifest, logs, provenance, journal."""
