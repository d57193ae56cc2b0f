"""Token trees become an adapter."""
