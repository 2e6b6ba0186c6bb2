"""What is made of a run: the checkpoint that the pipeline loads, and a slim copy to go on with elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from training.config import STAGES, Preset
from training.errors import reading, replacing
from training.folder import RunFolder
from training.log import join_logs
from training.models import build_image_encoder, build_unet, build_vae, save_pipeline
from training.tensors import BEGIN_ANEW, load_average, load_network, load_state, save_state, save_tensors


def export(folder: RunFolder, preset: Preset, directory: Path) -> None:
    """Write the checkpoint and, beside it, the log of how it was trained.

    Args:
        folder: of a run whose stage `vae` is done; of a stage under way the averaged weights are taken.
        preset: of the run.
        directory: made if it is not there; what is in it and is no part of the checkpoint stays.

    Raises:
        TrainingError: a file of the run is damaged, or the checkpoint could not be written.
    """
    vae, unet = build_vae(preset.model), build_unet(preset.model)
    image_encoder = build_image_encoder(preset.model)
    load_network(vae, folder.weights("vae"))
    load_network(image_encoder, folder.image_encoder)
    _load_latest(vae.decoder, folder, "temporal-decoder", "decoder.")
    _load_latest(unet, folder, "unet", "")
    save_pipeline(directory, vae, unet, image_encoder)
    join_logs({stage: folder.log(stage) for stage in STAGES}, directory / "training-log.jsonl")


def slim(folder: RunFolder, directory: Path) -> None:
    """Copy a run: averaged weights in half precision, logs, no optimizers' states.

    Raises:
        TrainingError: a file of the run is damaged, or the copy could not be written.
    """
    copy = RunFolder(directory)
    files = [(folder.record, copy.record), (folder.image_encoder, copy.image_encoder)]
    for source, target in (*files, *((folder.log(stage), copy.log(stage)) for stage in STAGES)):
        if source.exists():
            with replacing(target) as partial:
                partial.write_bytes(source.read_bytes())
    for stage in STAGES:
        if folder.done(stage):
            with reading(folder.weights(stage)):
                weights = load_file(folder.weights(stage))
            save_tensors(_halved(weights), copy.weights(stage))
        elif folder.state(stage).exists():
            with reading(folder.state(stage), BEGIN_ANEW):
                state = load_state(folder.state(stage))
                kept: dict[str, Any] = {name: state[name] for name in ("step", "total", "elapsed_s")}
                kept["average"] = _halved(state["average"])
            save_state(kept, copy.state(stage))


def _load_latest(network: nn.Module, folder: RunFolder, stage: str, prefix: str) -> None:
    """Load the weights of a stage: those that it ended with, else the average so far, else none."""
    if folder.done(stage):
        load_network(network, folder.weights(stage), prefix)
    elif folder.state(stage).exists():
        load_average(network, folder.state(stage), prefix)


def _halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.half() for name, tensor in tensors.items()}
