"""What the HTTP service and the page share: the door, the socket, and the thread that owns the model."""
