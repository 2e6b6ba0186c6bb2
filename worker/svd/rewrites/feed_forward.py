"""The rewrite of the feed-forward layers."""

from __future__ import annotations

from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from worker.svd.kernels.geglu import geglu


class FusedGeglu(nn.Module):
    """A feed-forward layer's first product with its gate applied before the result is written."""

    def __init__(self, proj: nn.Linear) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[… k] → [… n]."""
        rows = hidden_states.flatten(0, -2)
        return geglu(rows, self.proj.weight, self.proj.bias).unflatten(0, hidden_states.shape[:-1])


def fuse_geglu(unet: UNetSpatioTemporalConditionModel) -> None:
    """Gate within the matrix product: its two halves, the largest tensors of the network, stay in registers."""
    for module in list(unet.modules()):
        if isinstance(module, FeedForward):
            module.net[0] = FusedGeglu(module.net[0].proj)
