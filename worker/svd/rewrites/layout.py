"""The rewrite that keeps activations channels-last from one end of a model to the other."""

from __future__ import annotations

import torch
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn

from worker.svd.rewrites.time import SvdModel


class ChannelsLastTransformer(TransformerSpatioTemporalModel):
    """The stock forward without its copies: tokens [(b t) (h w) c] are a view of channels-last features."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        image_only_indicator: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """[(b t) c h w] → the same; `image_only_indicator` is [b t]."""
        height, width = hidden_states.shape[2:]
        num_frames = image_only_indicator.shape[-1]
        tokens = self.proj_in(self.norm(hidden_states).permute(0, 2, 3, 1).flatten(1, 2))
        embedding = self.embed_frames(tokens, num_frames)
        time_context = encoder_hidden_states[::num_frames].repeat_interleave(height * width, dim=0)
        for block, time_block in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True):
            tokens = block(tokens, encoder_hidden_states=encoder_hidden_states)
            mixed = time_block(tokens + embedding, num_frames=num_frames, encoder_hidden_states=time_context)
            tokens = self.time_mixer(tokens, mixed, image_only_indicator)
        return (self.proj_out(tokens).unflatten(1, (height, width)).permute(0, 3, 1, 2) + hidden_states,)

    def embed_frames(self, tokens: Tensor, num_frames: int) -> Tensor:
        """The embedding of the frame numbers for [n tokens c], [n 1 c]."""
        numbers = torch.arange(num_frames, device=tokens.device).repeat(len(tokens) // num_frames)
        embedding: Tensor = self.time_pos_embed(self.time_proj(numbers).to(tokens.dtype))[:, None]
        return embedding


def keep_channels_last(model: SvdModel) -> None:
    """Weights and activations channels-last: cuDNN's convolutions want it so, and tokens become a view."""
    for module in list(model.modules()):
        if isinstance(module, TransformerSpatioTemporalModel):
            module.__class__ = ChannelsLastTransformer
        elif isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
        elif isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
