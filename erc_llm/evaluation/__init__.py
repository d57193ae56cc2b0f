"""Predictions tables become evidence: figures with intervals, references, differences."""
