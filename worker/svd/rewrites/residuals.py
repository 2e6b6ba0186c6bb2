"""The rewrite of the residual connections around the UNet's attention and feed-forward layers."""

from __future__ import annotations

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from worker.svd.kernels.layer_norm import layer_norm
from worker.svd.kernels.time_attention import time_attention
from worker.svd.rewrites.attention import CollapsedCrossAttention, FusedSelfAttention
from worker.svd.rewrites.time import TimeBlock


@torch.library.custom_op("animatic::add_product", mutates_args={"stream"})
def add_product(stream: Tensor, x: Tensor, weight: Tensor) -> None:
    """stream += x weightᵀ, rounded once; the product by itself never reaches memory.

    Args:
        stream: [… c], contiguous.
        x: [… k], as many rows as `stream` has.
        weight: [c k].
    """
    stream.view(-1, stream.shape[-1]).addmm_(x.flatten(0, -2), weight.t())


class AccumulatingBlock(BasicTransformerBlock):
    """A spatial transformer block whose layers add onto one tensor; its input is overwritten.

    What is the same for all tokens, biases and the collapsed cross-attention, waits until the end: on the way it is
    added where tokens are read anyway.
    """

    def forward(self, hidden_states: Tensor, **_: object) -> Tensor:
        """[n tokens c] → the same."""
        add_product(hidden_states, self.attn1.mix(self.norm1(hidden_states)), self.attn1.to_out.weight)
        return _finish(self, hidden_states, self.attn1.to_out.bias)


class AccumulatingTimeBlock(TimeBlock):
    """A temporal transformer block likewise."""

    def forward(self, hidden_states: Tensor, num_frames: int, encoder_hidden_states: Tensor) -> Tensor:
        """[(b t) s c] → the same."""
        entry = self.ff_in.net
        add_product(hidden_states, entry[0](self.norm_in(hidden_states)), entry[2].weight)
        qkv = self.attn1.project(_normalize(hidden_states, entry[2].bias[None], self.norm1))
        mixed = time_attention(qkv.unflatten(0, (-1, num_frames))).flatten(-2).flatten(0, 1)
        add_product(hidden_states, mixed, self.attn1.to_out.weight)
        return _finish(self, hidden_states, entry[2].bias + self.attn1.to_out.bias)


def accumulate_residuals(unet: UNetSpatioTemporalConditionModel) -> None:
    """Let matrix products add onto the residual in their epilogue, which saves two passes over it for each.

    Applies to blocks whose query, key and value are fused and whose cross-attention is collapsed. Source: cuBLAS,
    `cublasLtMatmul`, D = α A B + β C with C = D.
    """
    for block in list(unet.modules()):
        if not isinstance(block, BasicTransformerBlock | TimeBlock):
            continue
        if isinstance(block.attn1, FusedSelfAttention) and isinstance(block.attn2, CollapsedCrossAttention):
            block.__class__ = AccumulatingTimeBlock if isinstance(block, TimeBlock) else AccumulatingBlock


def _finish(block: BasicTransformerBlock | TimeBlock, hidden_states: Tensor, bias: Tensor) -> Tensor:
    """Cross-attention, feed-forward layer, and all that waited."""
    constant = block.attn2.value[:, 0] + bias
    layers = block.ff.net
    add_product(hidden_states, layers[0](_normalize(hidden_states, constant, block.norm3)), layers[2].weight)
    constant = constant + layers[2].bias
    return (hidden_states.unflatten(0, (constant.shape[0], -1)) + constant[:, None, None]).flatten(0, 1)


def _normalize(hidden_states: Tensor, constant: Tensor, norm: nn.LayerNorm) -> Tensor:
    return layer_norm(hidden_states, constant, norm.weight, norm.bias, norm.eps)
