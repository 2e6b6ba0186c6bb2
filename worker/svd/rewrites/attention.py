"""Rewrites of the UNet's attention layers."""

from __future__ import annotations

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention import BasicTransformerBlock, TemporalBasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F

#: what cuDNN's attention takes; anything else goes through torch's choice.
_CUDNN_DIM_MAX = 128


class CollapsedCrossAttention(nn.Module):
    """Cross-attention to a single token: its weight is softmax over one score, so 1, whatever the query.

    What is left is `to_out(to_v(token))`, the same for every pixel and frame.
    """

    value: Tensor

    def __init__(self, stock: Attention) -> None:
        super().__init__()
        self.to_v = stock.to_v
        self.to_out = stock.to_out[0]
        self.register_buffer("value", torch.empty(0), persistent=False)

    def set_context(self, context: Tensor) -> None:
        """Compute the value for a job.

        Args:
            context: [b 1 c], one token for each branch of guidance.
        """
        self.value = self.to_out(self.to_v(context))

    def forward(self, hidden_states: Tensor, **_: object) -> Tensor:
        """[n tokens c], whose n is b times something → [n 1 c], to be added to all tokens."""
        return self.value.repeat_interleave(hidden_states.shape[0] // self.value.shape[0], dim=0)


class FusedSelfAttention(nn.Module):
    """Self-attention whose query, key and value come from one matrix product."""

    def __init__(self, stock: Attention) -> None:
        super().__init__()
        self.heads = stock.heads
        parts = (stock.to_q, stock.to_k, stock.to_v)
        self.to_qkv = nn.Linear(
            parts[0].in_features, sum(part.out_features for part in parts), bias=False, device="meta"
        )
        self.to_qkv.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]), requires_grad=False)
        self.to_out = stock.to_out[0]

    def project(self, hidden_states: Tensor) -> Tensor:
        """[… c] → [… 3 heads d]: query, key, value."""
        return self.to_qkv(hidden_states).unflatten(-1, (3, self.heads, -1))

    def mix(self, hidden_states: Tensor) -> Tensor:
        """[n tokens c] → [n tokens c], without the projection at the end."""
        query, key, value = self.project(hidden_states).permute(2, 0, 3, 1, 4).unbind(0)
        return attend(query, key, value).transpose(1, 2).flatten(2)

    def forward(self, hidden_states: Tensor, **_: object) -> Tensor:
        """[n tokens c] → [n tokens c]."""
        return self.to_out(self.mix(hidden_states))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v, [n heads tokens d]; on CUDA by cuDNN's kernel, the fastest there for long sequences."""
    if query.is_cuda and query.element_size() == 2 and query.shape[-1] <= _CUDNN_DIM_MAX:
        out: Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(
            query, key, value, None, False, 0.0, False, False
        )[0]
        return out
    return F.scaled_dot_product_attention(query, key, value)


def collapse_cross_attention(unet: UNetSpatioTemporalConditionModel) -> None:
    """Compute each cross-attention once per job instead of per pixel, frame and step; its norm falls away.

    SVD conditions on one image embedding, so each cross-attention has one key. Source: Blattmann et al. 2023
    (arXiv:2311.15127), appendix D; the algebra is softmax of one number.
    """
    for block in list(unet.modules()):
        if isinstance(block, BasicTransformerBlock | TemporalBasicTransformerBlock) and isinstance(
            block.attn2, Attention
        ):
            block.attn2 = CollapsedCrossAttention(block.attn2)
            block.norm2 = nn.Identity()


def fuse_qkv(unet: UNetSpatioTemporalConditionModel) -> None:
    """One matrix product instead of three, which reads its input once: query, key and value of self-attention."""
    for block in list(unet.modules()):
        if isinstance(block, BasicTransformerBlock | TemporalBasicTransformerBlock):
            block.attn1 = FusedSelfAttention(block.attn1)
