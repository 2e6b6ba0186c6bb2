"""How fast the SVD engine is, and how exact, beside diffusers' own pipeline."""
