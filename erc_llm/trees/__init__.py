"""Token trees: a dialogue as one tree of token ids, packed into forests and read by tree attention."""
