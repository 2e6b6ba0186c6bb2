"""Weights while they are trained: float32 masters, a copy of lower precision that computes, and their average."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class TrainedWeights:
    """The trained parameters of a network, their optimizer and their moving average.

    On a GPU the network itself is bfloat16, gradients too, and the optimizer works on float32 masters. Autocast would
    keep every norm and activation in float32, and networks as small as ours are bound by memory traffic: it would take
    about twice the time. In float32 masters and parameters are the same tensors.

    Source: Micikevicius et al. 2018 (arXiv:1710.03740), section 3.1.
    """

    def __init__(self, network: nn.Module, learning_rate: float, weight_decay: float, dtype: torch.dtype) -> None:
        self._names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        chosen = dict(network.named_parameters())
        masters = [chosen[name].detach().float().clone() for name in self._names]
        network.to(dtype=dtype)
        self._parameters = [dict(network.named_parameters())[name] for name in self._names]
        self._shared = dtype == torch.float32
        self._masters = self._parameters if self._shared else [nn.Parameter(master) for master in masters]
        self._average = masters
        # Biases, norms and mixing factors are not pulled to zero.
        matrices = [master for master in self._masters if master.ndim > 1]
        vectors = [master for master in self._masters if master.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
            lr=learning_rate,
            betas=(0.9, 0.99),
            weight_decay=weight_decay,
            fused=self._masters[0].device.type == "cuda",
        )

    def step(self, learning_rate: float, clip_norm: float, ema_decay: float) -> Tensor:
        """One update from the network's gradients, which are cleared.

        Returns:
            The norm of all gradients before clipping, a scalar on the device.
        """
        if not self._shared:
            for master, parameter in zip(self._masters, self._parameters, strict=True):
                master.grad = None if parameter.grad is None else parameter.grad.float()
                parameter.grad = None
        norm = nn.utils.clip_grad_norm_(self._masters, clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self._average, [master.detach() for master in self._masters], 1 - ema_decay)
            if not self._shared:
                torch._foreach_copy_(self._parameters, self._masters)
        return norm

    def average(self) -> dict[str, Tensor]:
        """The moving average by name, float32, on the CPU."""
        return _on_cpu(self._names, self._average)

    def masters(self) -> dict[str, Tensor]:
        """The weights by name, float32, on the CPU."""
        return _on_cpu(self._names, self._masters)

    @torch.no_grad()
    def load(self, masters: Mapping[str, Tensor], average: Mapping[str, Tensor]) -> None:
        """Go on from saved weights; their dtype may be any.

        Raises:
            KeyError: one of the network's weights is missing.
            ValueError: one has another shape.
        """
        for index, name in enumerate(self._names):
            if not masters[name].shape == average[name].shape == self._masters[index].shape:
                raise ValueError(f"{name} has another shape than in the network")
            self._masters[index].copy_(masters[name])
            self._average[index].copy_(average[name])
            self._parameters[index].copy_(masters[name])


def _on_cpu(names: list[str], tensors: list[Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().float().cpu().clone() for name, tensor in zip(names, tensors, strict=True)}
