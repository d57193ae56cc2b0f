"""Baselines: encoders with a memory of the speaker; they give the same predictions tables without a language model.

`encoder` reads an utterance in its past context. `compm` adds a memory of the utterance's speaker (Lee and Lee, "CoMPM:
Context Modeling with Speaker's Pre-trained Memory Tracking for Emotion Recognition in Conversation", NAACL 2022, arXiv
2108.11626). `emonet` adds the extensions of B. Puthan Veetil (MS thesis, Liverpool John Moores University 2024, doi
10.5281/zenodo.20048006). Both are reimplemented from their papers and public code, and contain none of that code.
docs/baselines.md lists the choices made here.

Input: a baseline's configuration and a corpus. Output: run directories and predictions tables.
Does not depend on: prompts, language models.
"""
