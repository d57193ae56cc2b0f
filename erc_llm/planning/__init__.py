"""Planning: memory, time and disk of a training run, computed before anything is downloaded.

Input: a configuration, and the base model's `config.json`. Output: a `Plan`.
Does not depend on: torch, transformers, loaded models, GPUs.
"""
