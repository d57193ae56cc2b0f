"""Planning: what a training run will need and what could stop it, found before it starts.

Input: a configuration, and the base model's small files. Output: a `Plan`, findings.
Does not depend on: loaded weights. The plan itself needs no torch, transformers or GPU.
"""
