"""Networks and states in files: written whole or not at all, and read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.errors import reading, replacing

#: what to do about a state that is damaged.
BEGIN_ANEW = "remove it to begin the stage anew"


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file; raises TrainingError if that fails."""
    with replacing(path) as partial:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)


def load_network(network: nn.Module, path: Path, prefix: str = "") -> None:
    """Load all weights of a network from a safetensors file of any precision.

    Args:
        network: keeps its own precision.
        path: of the file.
        prefix: of the names in the file.

    Raises:
        TrainingError: the file is damaged, or is of another network.
    """
    with reading(path):
        network.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in load_file(path).items()})


def load_average(network: nn.Module, path: Path, prefix: str = "") -> None:
    """Load the averaged weights of a stage under way; what the stage does not train stays as it is.

    Raises:
        TrainingError: the state is damaged, or is of another network.
    """
    with reading(path, BEGIN_ANEW):
        average = {name.removeprefix(prefix): tensor for name, tensor in load_state(path)["average"].items()}
        unknown = network.load_state_dict(average, strict=False).unexpected_keys
        if unknown:
            raise ValueError(f"unknown weights {unknown[0]}")


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write a stage's state; raises TrainingError if that fails."""
    with replacing(path) as partial, partial.open("wb") as file:
        torch.save(state, file)


def load_state(path: Path) -> dict[str, Any]:
    """A stage's state, on the CPU; raises TrainingError if it is damaged."""
    with reading(path, BEGIN_ANEW):
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
