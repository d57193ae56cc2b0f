"""Export: an adapter in forms that other programs load, each verified by reloading it and scoring stored probes."""
