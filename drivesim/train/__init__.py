"""Training of all stages, on Lightning."""
