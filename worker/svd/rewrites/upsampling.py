"""The rewrite of the layers that double a picture."""

from __future__ import annotations

import torch
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional as F

from worker.svd.kernels.interleave import interleave
from worker.svd.rewrites.time import SvdModel


class SubpixelUpsample(nn.Module):
    """Nearest-neighbour upsampling and a 3×3 convolution as one 2×2 convolution for each of four output phases.

    A 3×3 window on a picture that was doubled sees 2×2 different pixels; the weights that fall on one pixel are added
    up beforehand. 16 products instead of 36, and the doubled picture is never made.
    """

    def __init__(self, stock: Upsample2D) -> None:
        super().__init__()
        self.stock = stock
        weight = stock.conv.weight.detach()
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        # [phase pixel row]: which rows fall on which pixel; an even output sees (−1, 0), an odd one (0, +1).
        fold = wide.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
        rows = torch.einsum("oijk,yaj->yoiak", wide, fold)
        # [(y x o) i 2 2].
        folded = torch.einsum("yoiak,xbk->yxoiab", rows, fold).flatten(0, 2)
        folded = folded.to(weight.dtype).contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(folded, requires_grad=False)

    def forward(self, hidden_states: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        """[n c h w] → [n o 2h 2w]; any other `output_size` goes the stock way."""
        height, width = hidden_states.shape[2:]
        if output_size is not None and tuple(output_size) != (2 * height, 2 * width):
            return self.stock(hidden_states, output_size)
        # Padded on all sides, the windows of all phases lie side by side in one output of (h + 1) × (w + 1).
        phases = F.conv2d(hidden_states, self.weight, padding=1).permute(0, 2, 3, 1).contiguous()
        return interleave(phases, self.stock.conv.bias).permute(0, 3, 1, 2)


def split_upsampling(model: SvdModel) -> None:
    """Upsample and convolve in one, with 16 products for 36; see `SubpixelUpsample`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is Upsample2D and child.use_conv and child.interpolate:
                setattr(module, name, SubpixelUpsample(child))
