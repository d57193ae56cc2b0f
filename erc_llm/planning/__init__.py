"""Planning: what a training run will need and what could stop it, found before it starts."""
