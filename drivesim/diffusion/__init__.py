"""The diffusion objective, guidance and the sampling loop."""
