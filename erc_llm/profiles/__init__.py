"""Speaker profiles: what is known of a person before a scene, in words."""
