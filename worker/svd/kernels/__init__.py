"""Triton kernels for what moves more memory than it must, each beside its reference in plain torch.

Each function runs its kernel on CUDA and its reference everywhere else, so the rewrites that use them are tested
without a GPU, and the kernels are tested against the references on one.
"""
