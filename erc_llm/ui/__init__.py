"""The page: a conversation, its labels and errors, and training runs, in a browser on this machine."""
