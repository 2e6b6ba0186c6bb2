"""Triton kernels for what a compiler leaves in memory's way, each beside its reference in plain torch.

Each operator runs its kernel on CUDA and its reference everywhere else, so the rewrites that use them are tested
without a GPU, and the kernels are tested against the references on one.
"""
