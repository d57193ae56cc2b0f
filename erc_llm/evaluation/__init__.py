"""Evaluation: metrics with intervals, references, comparisons of systems, and their reports.

Input: predictions tables. Output: frozen records, and files that show them.
Does not depend on: models, prompts, how predictions were made.
"""
