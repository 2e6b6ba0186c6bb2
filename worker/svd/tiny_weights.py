"""Weights of the `tiny` checkpoint, written by hand along the path that the picture takes.

Networks of this kind pass everything through GroupNorm and SiLU, which take away level and contrast. Two identities let
a signal x through unharmed. First, silu(x) - silu(-x) = x exactly. Second, in a group of the three channels
(x, -x, C) with a constant C that is much larger than x, the mean is C/3 and the deviation C·√2/3, both nearly whatever
x is; so GroupNorm gives ±3x/(√2·C) - 1/√2, and a bias of 1/√2 leaves ±3x/(√2·C). A signal therefore travels as such a
triple, and 96 channels in 32 groups carry 32 of them. Residual blocks on the way are the identity: their last
convolution is zero.

The VAE is then a mean over 8×8 px and a smooth enlargement. The UNet gives what makes diffusers' Euler step arrive at
the conditioning latents. With v-prediction, x0 = x/(σ²+1) - v·σ/√(σ²+1) (Salimans & Ho 2022, arXiv:2202.00512, appendix
D, in the variance-exploding form of EulerDiscreteScheduler.step), and with the model's input y = x/√(σ²+1),

    v = (y - c - w)/σ - (c + w)·(√(σ²+1) - 1)/σ

gives x0 = c + w: c the conditioning latents, w a small texture from the random rest of the network, which sees frame,
noise and motion bucket. The division by σ is GroupNorm's: the constant C of those triples is made to follow σ by the
time embedding.
"""

from __future__ import annotations

import math

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch import Tensor, nn

_SQRT2 = math.sqrt(2)
#: the constant of a triple whose signal stays below about 4.
_CARRIER = 30.0

#: the two divisors follow σ: _FAST·σ within these bounds of σ, and _SLOW·σ/(√(σ²+1) - 1).
_FAST, _SLOW = 100.0, 20.0
_SIGMA_LOW, _SIGMA_HIGH = 0.03, 20.0
#: steepness of the silu bends, in units of the timestep 0.25·ln σ; larger is closer to a corner.
_STEEPNESS = 40.0

#: size of the texture w in latents, whose standard deviation is about 0.5.
_TEXTURE = 0.06


def write_vae_weights(vae: AutoencoderKLTemporalDecoder) -> None:
    """Make the encoder a mean over 8×8 px and the decoder a smooth enlargement.

    Latents are R, G, B in units of 1/scaling_factor, so that scaled latents are the picture in [-1, 1], and a fourth
    channel of zeros.
    """
    gain = 1 / vae.config.scaling_factor
    encoder, decoder = vae.encoder, vae.decoder
    for block in (*_resnets(encoder), *_resnets(decoder)):
        _make_identity(block)
    for attention in (*encoder.mid_block.attentions, *decoder.mid_block.attentions):
        _zero(attention.to_out[0])

    _zero(encoder.conv_in)
    _set_taps(encoder.conv_in, _copies(3))
    for block in encoder.down_blocks:
        for downsampler in block.downsamplers or ():
            _zero(downsampler.conv)
            # Padded on the right and below only: taps 0 and 1 are the two pixels that become one.
            for channel in range(3):
                downsampler.conv.weight[channel, channel, :2, :2] = 0.25
    _write_shortcuts(encoder.down_blocks)
    _make_triples(encoder.down_blocks[-1].resnets[0].conv_shortcut, 3)
    _pass_triples(encoder.conv_norm_out, 3)
    _zero(encoder.conv_out)
    _read_triples(encoder.conv_out, 3, _CARRIER, gain)
    _zero(vae.quant_conv)
    _set_taps(vae.quant_conv, _copies(3))

    _zero(decoder.conv_in)
    _set_taps(decoder.conv_in, _copies(3), 1 / gain)
    smooth = torch.tensor([0.25, 0.5, 0.25])
    for block in decoder.up_blocks:
        for upsampler in block.upsamplers or ():
            _zero(upsampler.conv)
            for channel in range(3):
                upsampler.conv.weight[channel, channel] = torch.outer(smooth, smooth)
    _write_shortcuts(decoder.up_blocks)
    _make_triples(decoder.up_blocks[-1].resnets[0].spatial_res_block.conv_shortcut, 3)
    _pass_triples(decoder.conv_norm_out, 3)
    _zero(decoder.conv_out)
    _read_triples(decoder.conv_out, 3, _CARRIER, 1.0)
    _zero(decoder.time_conv_out)
    for channel in range(3):
        decoder.time_conv_out.weight[channel, channel, 1] = 1.0


def write_unet_weights(unet: UNetSpatioTemporalConditionModel) -> None:
    """Make the last residual block give v as the module's docstring says; all before it stays random."""
    scaling_factor, width = 0.18215, unet.config.block_out_channels[0]
    # 1. The input as triples: noisy latents y (4 signals), conditioning latents c (4, unscaled in SVD). The rest of
    #    the channels stay random, for the network beneath.
    for signal in range(8):
        _zero_rows(unet.conv_in, slice(3 * signal, 3 * signal + 3))
        level = 1.0 if signal < 4 else scaling_factor
        unet.conv_in.weight[3 * signal, signal, 1, 1] = level
        unet.conv_in.weight[3 * signal + 1, signal, 1, 1] = -level
        unet.conv_in.bias[3 * signal + 2] = _CARRIER

    # 2. The last block sees the network's features (channels 0 to width) and the input's triples (the rest).
    last = unet.up_blocks[-1]
    block = last.resnets[-1]
    _make_identity(block.temporal_res_block)
    _zero(last.attentions[-1].proj_out)
    spatial = block.spatial_res_block
    spatial.norm1.bias[width:] = 0.0
    for signal in range(8):
        start = width + 3 * signal
        spatial.norm1.bias[start : start + 2] = 1 / _SQRT2
    texture = torch.randn(4, width) * (_TEXTURE / math.sqrt(width) * 2)
    _zero(spatial.conv1)
    for latent in range(4):
        read_y = _reading(width + 3 * latent, _CARRIER)
        read_c = _reading(width + 3 * (4 + latent), _CARRIER)
        target = torch.zeros(2 * width)
        target[:width] = texture[latent]
        for channel, weight in read_c.items():
            target[channel] += weight
        error = -target
        for channel, weight in read_y.items():
            error[channel] += weight
        for signal, row in ((latent, error), (4 + latent, target)):
            spatial.conv1.weight[3 * signal, :, 1, 1] = row
            spatial.conv1.weight[3 * signal + 1, :, 1, 1] = -row

    # 3. The constants of those triples follow σ; GroupNorm divides by them.
    _write_sigma_embedding(unet)
    _zero(spatial.time_emb_proj)
    for signal in range(8):
        spatial.time_emb_proj.weight[3 * signal + 2, 0 if signal < 4 else 1] = 1.0
    _pass_triples(spatial.norm2, 8)

    # 4. Sum both terms of v, again as triples, and read them out.
    _zero(spatial.conv2)
    _zero(spatial.conv_shortcut)
    for latent in range(4):
        for terms in (_reading(3 * latent, _FAST), _reading(3 * (4 + latent), -_SLOW)):
            for channel, weight in terms.items():
                spatial.conv2.weight[3 * latent, channel, 1, 1] = weight
                spatial.conv2.weight[3 * latent + 1, channel, 1, 1] = -weight
        spatial.conv_shortcut.bias[3 * latent + 2] = _CARRIER
    _pass_triples(unet.conv_norm_out, 4)
    _zero(unet.conv_out)
    _read_triples(unet.conv_out, 4, _CARRIER, 1.0)


def _write_sigma_embedding(unet: UNetSpatioTemporalConditionModel) -> None:
    """Let channels 0 and 1 of the time embedding be the two divisors, as functions of t = 0.25·ln σ.

    Both are convex, so sums of bends with positive weights follow them and nothing cancels in float16.
    """
    first, second = unet.time_embedding.linear_1, unet.time_embedding.linear_2
    half = unet.config.block_out_channels[0] // 2
    # Sine features lie in the second half (flip_sin_to_cos); this frequency is low enough for sin(ft) = ft.
    index = half // 4
    frequency = math.exp(-math.log(10_000) * index / half)
    low, high = (0.25 * math.log(sigma) for sigma in (_SIGMA_LOW, _SIGMA_HIGH))
    rising = torch.linspace(low, high, 24, dtype=torch.float64)
    falling = torch.linspace(high, low, 24, dtype=torch.float64)
    _zero_rows(first, slice(0, 48))
    _zero_rows(second, slice(0, 2))
    _zero_rows(unet.add_embedding.linear_2, slice(0, 2))
    for hidden, (knot, sign) in enumerate(
        [(float(knot), 1.0) for knot in rising] + [(float(knot), -1.0) for knot in falling]
    ):
        first.weight[hidden, half + index] = sign * _STEEPNESS / frequency
        first.bias[hidden] = -sign * _STEEPNESS * knot
    sigma_rising, sigma_falling = torch.exp(4 * rising), torch.exp(4 * falling)
    fast = _FAST * sigma_rising
    slow = _SLOW * sigma_falling / (torch.sqrt(sigma_falling**2 + 1) - 1)
    second.weight[0, :24] = _bend_weights(rising, fast)
    second.bias[0] = float(fast[0])
    second.weight[1, 24:48] = _bend_weights(falling, slow)
    second.bias[1] = float(slow[0])


def _bend_weights(knots: Tensor, values: Tensor) -> Tensor:
    """Weights of silu bends that interpolate a convex function between its knots."""
    slopes = torch.diff(values) / torch.diff(knots).abs()
    bends = torch.diff(slopes, prepend=torch.zeros(1, dtype=torch.float64))
    weights = torch.zeros(len(knots), dtype=torch.float64)
    weights[:-1] = bends / _STEEPNESS
    return weights.float()


def _reading(start: int, constant: float) -> dict[int, float]:
    """Weights over silu(GroupNorm(triple)) that give back its signal, times constant / the triple's constant."""
    weight = constant * _SQRT2 / 3
    return {start: weight, start + 1: -weight}


def _read_triples(conv: nn.Conv2d, signals: int, constant: float, gain: float) -> None:
    for signal in range(signals):
        for channel, weight in _reading(3 * signal, constant).items():
            conv.weight[signal, channel, 1, 1] = weight * gain


def _pass_triples(norm: nn.GroupNorm, signals: int) -> None:
    for signal in range(signals):
        norm.bias[3 * signal : 3 * signal + 2] = 1 / _SQRT2


def _make_triples(conv: nn.Conv2d, signals: int) -> None:
    """Turn channels 0 to `signals` into triples, by a 1×1 convolution."""
    _zero(conv)
    for signal in range(signals):
        conv.weight[3 * signal, signal] = 1.0
        conv.weight[3 * signal + 1, signal] = -1.0
        conv.bias[3 * signal + 2] = _CARRIER


def _write_shortcuts(blocks: nn.ModuleList) -> None:
    for resnet in (resnet for block in blocks for resnet in block.resnets):
        shortcut = getattr(resnet, "spatial_res_block", resnet).conv_shortcut
        if shortcut is not None:
            _zero(shortcut)
            _set_taps(shortcut, _copies(3))


def _copies(channels: int) -> list[tuple[int, int]]:
    return [(channel, channel) for channel in range(channels)]


def _set_taps(conv: nn.Conv2d, pairs: list[tuple[int, int]], weight: float = 1.0) -> None:
    """Copy channels through the middle tap; `pairs` are (out, in)."""
    middle = conv.kernel_size[0] // 2
    for output, source in pairs:
        conv.weight[output, source, middle, middle] = weight


def _resnets(part: nn.Module) -> list[nn.Module]:
    """All residual blocks in a part of the VAE: those with two convolutions."""
    return [module for module in part.modules() if hasattr(module, "conv1") and hasattr(module, "conv2")]


def _make_identity(block: nn.Module) -> None:
    _zero(block.conv2)


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.zero_()


def _zero_rows(module: nn.Module, rows: slice) -> None:
    module.weight[rows] = 0.0
    module.bias[rows] = 0.0
