"""Stable Video Diffusion: the only package that imports torch, diffusers, transformers and accelerate."""

from worker.svd.quiet import silence_libraries

# Here, since the first hint comes while diffusers' pipelines are imported.
silence_libraries()
