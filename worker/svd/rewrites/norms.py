"""Rewrites of the normalization layers and of the residual blocks around them."""

from __future__ import annotations

from diffusers import AutoencoderKLTemporalDecoder
from diffusers.models.resnet import ResnetBlock2D, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn
from torch.nn import functional as F

from worker.svd.kernels.group_norm import group_norm
from worker.svd.kernels.residual import add_residual
from worker.svd.rewrites.time import SvdModel, TimeConvolution


class FrameNorm(nn.Module):
    """GroupNorm of [n c h w], perhaps with SiLU, that leaves channels last."""

    def __init__(self, stock: nn.GroupNorm, *, silu: bool) -> None:
        super().__init__()
        self.stock = stock
        self.silu = silu

    def forward(self, x: Tensor) -> Tensor:
        """[n c h w] → the same."""
        return norm_frames(x, self.stock, silu=self.silu)


class ChannelsLastResnet(ResnetBlock2D):
    """The stock forward with norm and SiLU in two passes, and bias and time embedding in none."""

    def forward(self, input_tensor: Tensor, temb: Tensor | None) -> Tensor:
        """[n c h w] → the same; `temb` is [n c]."""
        offset = _offset(self.conv1, self.time_emb_proj, temb)
        hidden = norm_frames(input_tensor, self.norm1)
        hidden = F.conv2d(hidden, self.conv1.weight, None, padding=self.conv1.padding)
        hidden = norm_frames(hidden, self.norm2, offset=offset.expand(hidden.shape[0], -1))
        hidden = F.conv2d(hidden, self.conv2.weight, None, padding=self.conv2.padding)
        if self.conv_shortcut is None:
            return _join(hidden, input_tensor, self.conv2.bias)
        shortcut = F.conv2d(input_tensor, self.conv_shortcut.weight)
        return _join(hidden, shortcut, self.conv2.bias + self.conv_shortcut.bias)


class ChannelsLastTimeResnet(TemporalResnetBlock):
    """The stock forward with norm and SiLU in two passes, and bias and time embedding in none."""

    def forward(self, input_tensor: Tensor, temb: Tensor | None) -> Tensor:
        """[b c t h w] → the same; `temb` is [b t c]."""
        offset = _offset(self.conv1, self.time_emb_proj, None if temb is None else temb.flatten(0, 1))
        hidden = norm_video(input_tensor, self.norm1)
        if isinstance(self.conv1, TimeConvolution):
            hidden = self.conv1.convolve(hidden)
        else:
            hidden = F.conv3d(hidden, self.conv1.weight, None, padding=self.conv1.padding)
        offset = offset.expand(hidden.shape[0] * hidden.shape[2], -1)
        hidden = norm_video(hidden, self.norm2, offset=offset)
        if isinstance(self.conv2, TimeConvolution):
            return self.conv2.convolve(hidden, input_tensor)
        return input_tensor + self.conv2(hidden)


def norm_frames(x: Tensor, norm: nn.GroupNorm, *, offset: Tensor | None = None, silu: bool = True) -> Tensor:
    """Each of [n c h w] by itself; `offset` is [n c]."""
    rows = x.permute(0, 2, 3, 1)
    normed = group_norm(
        rows.flatten(1, 2).contiguous(), offset, norm.weight, norm.bias, norm.num_groups, norm.eps, 1, silu
    )
    return normed.unflatten(1, rows.shape[1:3]).permute(0, 3, 1, 2)


def norm_video(x: Tensor, norm: nn.GroupNorm, *, offset: Tensor | None = None) -> Tensor:
    """Each of [b c t h w] over all its frames; `offset` is [(b t) c]."""
    rows = x.permute(0, 2, 3, 4, 1)
    flat = rows.flatten(2, 3).flatten(0, 1).contiguous()
    normed = group_norm(flat, offset, norm.weight, norm.bias, norm.num_groups, norm.eps, x.shape[2], True)
    return normed.reshape(rows.shape).permute(0, 4, 1, 2, 3)


def fuse_norms(model: SvdModel) -> None:
    """GroupNorm, SiLU, the convolution's bias and the time embedding before them in two passes over memory."""
    for module in list(model.modules()):
        if isinstance(module, TransformerSpatioTemporalModel):
            module.norm = FrameNorm(module.norm, silu=False)
        elif type(module) is ResnetBlock2D:
            module.__class__ = ChannelsLastResnet
        elif type(module) is TemporalResnetBlock:
            module.__class__ = ChannelsLastTimeResnet
    ends = [model.encoder, model.decoder] if isinstance(model, AutoencoderKLTemporalDecoder) else [model]
    for end in ends:
        end.conv_norm_out, end.conv_act = FrameNorm(end.conv_norm_out, silu=True), nn.Identity()


def _offset(conv: nn.Module, projection: nn.Module | None, temb: Tensor | None) -> Tensor:
    offset = conv.bias[None]
    return offset if projection is None or temb is None else offset + projection(F.silu(temb))


def _join(hidden: Tensor, residual: Tensor, bias: Tensor) -> Tensor:
    """The sum of a branch [n c …], its residual and its last bias, in the branch's memory."""
    rows = hidden.movedim(1, -1).contiguous()
    add_residual(rows.flatten(0, -2), residual.movedim(1, -1).flatten(0, -2).contiguous(), bias[None])
    return rows.movedim(-1, 1)
