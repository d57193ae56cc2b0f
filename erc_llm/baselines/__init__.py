"""Encoders with memory: the road to the same predictions table that needs no language model.

`encoder` reads an utterance in its past context, `compm` adds a memory of its speaker (Lee and Lee, "CoMPM: Context
Modeling with Speaker's Pre-trained Memory Tracking for Emotion Recognition in Conversation", NAACL 2022, arXiv
2108.11626), `emonet` switches on what B. Puthan Veetil added to that (MS thesis, Liverpool John Moores University 2024,
doi 10.5281/zenodo.20048006). Both are rebuilt from what their papers and public code say; no line of theirs is here.
docs/baselines.md lists every choice that is ours.
"""
