"""The rewrite of the attention layer in the VAE's decoder."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from worker.svd.rewrites.norms import norm_frames


def split_decoder_attention(vae: AutoencoderKLTemporalDecoder) -> None:
    """Attend frame by frame in plain matrix products: one head of 512 channels is too wide for the fused kernels."""
    block = vae.decoder.mid_block
    block.attentions = nn.ModuleList(
        WideAttention(stock) if isinstance(stock, Attention) else stock for stock in block.attentions
    )


class WideAttention(nn.Module):
    """Self-attention over the pixels of each frame, with one head as wide as the features."""

    def __init__(self, stock: Attention) -> None:
        super().__init__()
        self.norm = stock.group_norm
        self.to_q, self.to_k, self.to_v, self.to_out = stock.to_q, stock.to_k, stock.to_v, stock.to_out[0]
        self.scale = stock.scale

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[n c h w] → the same."""
        tokens = norm_frames(hidden_states, self.norm, silu=False).permute(0, 2, 3, 1)
        shape = tokens.shape
        tokens = tokens.flatten(1, 2)
        query, key, value = self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)
        attended = torch.cat(
            [self._attend(*frame) for frame in zip(query.split(1), key.split(1), value.split(1), strict=True)]
        )
        return self.to_out(attended).reshape(shape).permute(0, 3, 1, 2) + hidden_states

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if query.is_cuda and query.element_size() == 2:
            # Scores in float32, as the fused kernels keep them.
            scores = torch.bmm(query * self.scale, key.transpose(1, 2), out_dtype=torch.float32)
            return torch.bmm(scores.softmax(-1).to(value.dtype), value)
        return F.scaled_dot_product_attention(query, key, value, scale=self.scale)
