"""Speaker profiles: what is known about a person before a scene, as text."""
