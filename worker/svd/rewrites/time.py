"""Rewrites of the layers that mix frames."""

from __future__ import annotations

from typing import TypeAlias

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from diffusers.models.attention import TemporalBasicTransformerBlock
from diffusers.models.resnet import AlphaBlender, SpatioTemporalResBlock, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn

from worker.svd.kernels.time_attention import time_attention
from worker.svd.kernels.time_convolution import time_convolution
from worker.svd.rewrites.attention import FusedSelfAttention

SvdModel: TypeAlias = UNetSpatioTemporalConditionModel | AutoencoderKLTemporalDecoder


class TimeConvolution(nn.Module):
    """A convolution over frames alone, on channels-last pixels."""

    def __init__(self, stock: nn.Conv3d) -> None:
        super().__init__()
        # [o i 3 1 1] → [o 3 i].
        weight = stock.weight.detach().flatten(2).permute(0, 2, 1).contiguous()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = stock.bias

    def convolve(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[b c t h w] → the same, without the bias, or with it and a residual; all in between are views."""
        pixels = x.permute(0, 2, 3, 4, 1)
        bias = None
        if residual is not None:
            bias = self.bias
            residual = residual.permute(0, 2, 3, 4, 1).flatten(2, 3).contiguous()
        return (
            time_convolution(pixels.flatten(2, 3).contiguous(), self.weight, residual, bias)
            .reshape(*pixels.shape[:4], -1)
            .permute(0, 4, 1, 2, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[b c t h w] → the same."""
        return self.convolve(x) + self.bias[:, None, None, None]


class KeepTemporal(nn.Module):
    """Stands for a blender that was folded away."""

    def forward(self, x_spatial: Tensor, x_temporal: Tensor, image_only_indicator: Tensor | None = None) -> Tensor:
        """The temporal one of two [b c t h w]."""
        return x_temporal


class ConstantBlender(nn.Module):
    """α · spatial + (1 − α) · temporal, with an α that is known."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x_spatial: Tensor, x_temporal: Tensor, image_only_indicator: Tensor | None = None) -> Tensor:
        """Blend two of one shape."""
        return torch.lerp(x_temporal, x_spatial, self.alpha)


class CachedFrameEmbedding(nn.Module):
    """The embedding of the frame numbers, which no job changes: computed once for each number of frames."""

    value: Tensor

    def __init__(self, stock: nn.Module) -> None:
        super().__init__()
        self.stock = stock
        self.register_buffer("value", torch.empty(0), persistent=False)

    def set_frames(self, embedded: Tensor) -> None:
        """Compute the value for a job.

        Args:
            embedded: [t c], the sinusoids of the frame numbers.
        """
        self.value = self.stock(embedded)

    def forward(self, embedded: Tensor) -> Tensor:
        """[(b t) c] → [(b t) c]."""
        return self.value.repeat(embedded.shape[0] // self.value.shape[0], 1)


class TimeBlock(nn.Module):
    """A temporal transformer block that leaves tokens where they are: [(b t) s c], not [(b s) t c]."""

    def __init__(self, stock: TemporalBasicTransformerBlock) -> None:
        super().__init__()
        self.norm_in, self.ff_in = stock.norm_in, stock.ff_in
        self.norm1 = stock.norm1
        self.attn1 = stock.attn1 if isinstance(stock.attn1, FusedSelfAttention) else FusedSelfAttention(stock.attn1)
        self.norm2, self.attn2 = stock.norm2, stock.attn2
        self.norm3, self.ff = stock.norm3, stock.ff

    def forward(self, hidden_states: Tensor, num_frames: int, encoder_hidden_states: Tensor) -> Tensor:
        """[(b t) s c] → the same; the context comes as the stock block wants it, [(b s) 1 c]."""
        pixels = hidden_states.shape[1]
        hidden_states = self.ff_in(self.norm_in(hidden_states)) + hidden_states
        qkv = self.attn1.project(self.norm1(hidden_states)).unflatten(0, (-1, num_frames))
        hidden_states = self.attn1.to_out(time_attention(qkv).flatten(-2).flatten(0, 1)) + hidden_states
        context = encoder_hidden_states[::pixels].repeat_interleave(num_frames, dim=0)
        hidden_states = self.attn2(self.norm2(hidden_states), encoder_hidden_states=context) + hidden_states
        return self.ff(self.norm3(hidden_states)) + hidden_states


def convolve_time_in_place(model: SvdModel) -> None:
    """Conv3d of 3×1×1 as a matrix product over three frames; cuDNN reaches a tenth to a half of the device with it."""
    for block in list(model.modules()):
        if isinstance(block, TemporalResnetBlock):
            block.conv1 = TimeConvolution(block.conv1)
            block.conv2 = TimeConvolution(block.conv2)


def fold_blenders(model: SvdModel) -> None:
    """Fold α x + (1 − α)(x + conv(h)) into x + conv′(h), with conv′ = (1 − α) conv; elsewhere, fix α.

    `image_only_indicator` is always zero in video generation, so α is the constant sigmoid of a weight. Source:
    diffusers, AlphaBlender.
    """
    for block in list(model.modules()):
        if isinstance(block, SpatioTemporalResBlock) and isinstance(block.time_mixer, AlphaBlender):
            conv = block.temporal_res_block.conv2
            with torch.no_grad():
                for part in (conv.weight, conv.bias):
                    part.copy_(part.cpu().double() * (1 - _alpha(block.time_mixer)))  # MPS has no float64
            block.time_mixer = KeepTemporal()
        elif isinstance(block, TransformerSpatioTemporalModel) and isinstance(block.time_mixer, AlphaBlender):
            block.time_mixer = ConstantBlender(_alpha(block.time_mixer))


def cache_frame_embeddings(unet: UNetSpatioTemporalConditionModel) -> None:
    """Embed the frame numbers once per job, not in every transformer of every step."""
    for block in list(unet.modules()):
        if isinstance(block, TransformerSpatioTemporalModel):
            block.time_pos_embed = CachedFrameEmbedding(block.time_pos_embed)


def attend_over_time_in_place(unet: UNetSpatioTemporalConditionModel) -> None:
    """Attend over frames where the tokens lie; the stock block copies all tokens to [(b s) t c] and back."""
    for block in list(unet.modules()):
        if isinstance(block, TransformerSpatioTemporalModel):
            block.temporal_transformer_blocks = nn.ModuleList(
                TimeBlock(stock) for stock in block.temporal_transformer_blocks
            )


def _alpha(blender: AlphaBlender) -> float:
    alpha = float(torch.sigmoid(blender.mix_factor.detach().cpu().double()))
    return 1 - alpha if blender.switch_spatial_to_temporal_mix else alpha
