"""Token trees become label distributions."""
