"""Calibration: fits, stores and chooses the correction of label distributions.

Input: predictions of the selection split, and a run. Output: a `Calibration` stored with the run, or a `Correction`.
Does not depend on: models, prompts.
"""
