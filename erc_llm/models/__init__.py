"""Models: finds language models, encoders, adapters and model servers by name, and loads them onto a device."""
