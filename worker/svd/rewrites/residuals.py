"""The rewrite of the residual connections around the UNet's attention and feed-forward layers."""

from __future__ import annotations

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from worker.svd.kernels.layer_norm import layer_norm
from worker.svd.kernels.residual import add_offset, add_residual
from worker.svd.kernels.time_attention import time_attention
from worker.svd.rewrites.attention import CollapsedCrossAttention, FusedSelfAttention
from worker.svd.rewrites.layout import ChannelsLastTransformer
from worker.svd.rewrites.time import ConstantBlender, TimeBlock


def add_product(stream: Tensor, x: Tensor, weight: Tensor) -> None:
    """stream += x weightᵀ, rounded once; the product by itself never reaches memory.

    Args:
        stream: [… c], contiguous.
        x: [… k], as many rows as `stream` has.
        weight: [c k].
    """
    stream.view(-1, stream.shape[-1]).addmm_(x.flatten(0, -2), weight.t())


class AccumulatingBlock(BasicTransformerBlock):
    """A spatial transformer block whose layers add onto one tensor.

    What is the same for all tokens, biases and the collapsed cross-attention, waits: on the way it is added where
    tokens are read anyway, and what is left of it at the end is the caller's to add.
    """

    def accumulate(self, tokens: Tensor) -> Tensor:
        """Change [n tokens c] in place; returns what is missing, [b c] for b branches of guidance."""
        add_product(tokens, self.attn1.mix(_normalize(tokens, None, self.norm1)), self.attn1.to_out.weight)
        return _finish(self, tokens, self.attn1.to_out.bias)

    def forward(self, hidden_states: Tensor, **_: object) -> Tensor:
        """[n tokens c] → the same; the input is overwritten."""
        return _add_by_branch(hidden_states, self.accumulate(hidden_states))


class AccumulatingTimeBlock(TimeBlock):
    """A temporal transformer block likewise."""

    def accumulate(self, tokens: Tensor, num_frames: int) -> Tensor:
        """Change [(b t) s c] in place; returns what is missing, [b c]."""
        entry = self.ff_in.net
        add_product(tokens, entry[0](_normalize(tokens, None, self.norm_in)), entry[2].weight)
        qkv = self.attn1.project(_normalize(tokens, entry[2].bias[None], self.norm1))
        mixed = time_attention(qkv.unflatten(0, (-1, num_frames))).flatten(-2).flatten(0, 1)
        add_product(tokens, mixed, self.attn1.to_out.weight)
        return _finish(self, tokens, entry[2].bias + self.attn1.to_out.bias)

    def forward(self, hidden_states: Tensor, num_frames: int, encoder_hidden_states: Tensor) -> Tensor:
        """[(b t) s c] → the same; the input is overwritten."""
        return _add_by_branch(hidden_states, self.accumulate(hidden_states, num_frames))


class AccumulatingTransformer(ChannelsLastTransformer):
    """A transformer of such blocks: what they leave to be added waits until its own residual is added."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        image_only_indicator: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """[(b t) c h w] → the same; `image_only_indicator` is [b t]."""
        num_frames = image_only_indicator.shape[-1]
        pixels = hidden_states.permute(0, 2, 3, 1)
        tokens = self.proj_in(self.norm(hidden_states).permute(0, 2, 3, 1).flatten(1, 2))
        embedding = self.embed_frames(tokens, num_frames)
        missing = tokens.new_zeros(1, tokens.shape[-1])
        for index, (block, time_block) in enumerate(
            zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True)
        ):
            if index:
                tokens = _add_by_branch(tokens, missing)
            missing = block.accumulate(tokens)
            mixed = _add_by_branch(tokens, missing, embedding)
            late = time_block.accumulate(mixed, num_frames)
            # In place: the blend takes no memory of its own.
            tokens = torch.lerp(mixed, tokens, self.time_mixer.alpha, out=mixed)
            missing = torch.lerp(late, missing, self.time_mixer.alpha)
        # proj_out(tokens + missing), with the constant part of the product by itself.
        out = F.linear(tokens, self.proj_out.weight).flatten(0, 1)
        add_residual(out, pixels.flatten(0, 2).contiguous(), self.proj_out(missing))
        return (out.reshape(pixels.shape).permute(0, 3, 1, 2),)


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
    for module in list(unet.modules()):
        if (
            type(module) is ChannelsLastTransformer
            and isinstance(module.time_mixer, ConstantBlender)
            and all(isinstance(block, AccumulatingBlock) for block in module.transformer_blocks)
            and all(isinstance(block, AccumulatingTimeBlock) for block in module.temporal_transformer_blocks)
        ):
            module.__class__ = AccumulatingTransformer


def _finish(block: BasicTransformerBlock | TimeBlock, tokens: Tensor, bias: Tensor) -> Tensor:
    """Feed-forward layer; returns all that waits."""
    constant = block.attn2.value[:, 0] + bias
    layers = block.ff.net
    add_product(tokens, layers[0](_normalize(tokens, constant, block.norm3)), layers[2].weight)
    return constant + layers[2].bias


def _add_by_branch(tokens: Tensor, constant: Tensor, frames: Tensor | None = None) -> Tensor:
    """tokens + constant, in one pass: [n tokens c] and [b c]; `frames` is [n 1 c], added as well."""
    rows = constant.repeat_interleave(len(tokens) // len(constant), dim=0)[:, None]
    return add_offset(tokens, (rows if frames is None else rows + frames)[:, 0])


def _normalize(hidden_states: Tensor, constant: Tensor | None, norm: nn.LayerNorm) -> Tensor:
    if constant is None:
        constant = hidden_states.new_zeros(1, hidden_states.shape[-1])
    return layer_norm(hidden_states, constant, norm.weight, norm.bias, norm.eps)
