"""Run directories: manifest, logs, provenance and the journal of resumable work.

Input: a folder, a configuration. Output: a run's records, read or written.
Does not depend on: prompts, loaded models, corpora.
"""
