"""Language models, encoders, adapters and model servers: found by name, loaded, placed on a device."""
