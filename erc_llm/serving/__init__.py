"""The HTTP service: labels conversations that programs send to it."""
