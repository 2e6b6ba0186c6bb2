"""Checkpoints in diffusers' format, on disk, without torch: where they lie, whether they are whole, what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from shared.errors import StartupError
from shared.exit_codes import ExitCode
from shared.settings import Settings

PIPELINE_CLASS = "StableVideoDiffusionPipeline"

#: the checkpoint that comes with the product; its README says how it was trained.
TINY = Path(__file__).parent / "svd" / "tiny"

#: base names of the weight files by component, as diffusers and transformers write them.
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "image_encoder": "model",
}
CONFIGS = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "image_encoder": "image_encoder/config.json",
    "feature_extractor": "feature_extractor/preprocessor_config.json",
    "scheduler": "scheduler/scheduler_config.json",
}

#: the format limits its header to this; a larger number is not a header's length.
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class ResolvedCheckpoint:
    """A checkpoint that lies on this machine, whole."""

    directory: Path
    #: file variant to load, such as `fp16`; None: files without one.
    variant: str | None
    #: commit for a hub repository; None: `fingerprint` says which weights these are.
    commit: str | None
    #: all files that loading reads.
    files: tuple[Path, ...]

    def fingerprint(self) -> str:
        """`sha256:…` over names and contents of the files; reads them all, 1 to 2 GB a second."""
        digest = hashlib.sha256()
        for path in sorted(self.files):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(self.directory)} {content}\n".encode())
        return f"sha256:{digest.hexdigest()}"


def model_root(settings: Settings) -> Path:
    """Where what is made for a model on this machine is kept."""
    if settings.model_dir:
        return Path(settings.model_dir).expanduser()
    return Path.home() / ".cache" / "animatic" / "models"


def check_files(directory: Path, variant: str | None, *, remedy: str, commit: str | None = None) -> ResolvedCheckpoint:
    """Check that a directory holds an SVD checkpoint, whole: configs, and each weight file to its last byte.

    Args:
        directory: in diffusers' format.
        variant: taken where the component has it; None: the files without one if all are there, else `fp16`.
        remedy: what to do about a broken file, the end of the sentence.
        commit: of the repository, if it came from the hub.

    Raises:
        StartupError: it does not; one sentence that says what to do.
    """
    index_path = directory / "model_index.json"
    pipeline_class = _read_json(index_path, remedy).get("_class_name")
    if pipeline_class != PIPELINE_CLASS:
        _refuse(f"{directory} is not an SVD checkpoint: model_index.json names {pipeline_class}, not {PIPELINE_CLASS}")
    configs = {name: _read_json(directory / path, remedy) for name, path in CONFIGS.items()}
    _check_configs(directory, configs)
    if variant is None and any(_weight_files(directory, component, None) is None for component in WEIGHTS):
        variant = "fp16"
    files = [index_path, *(directory / path for path in CONFIGS.values())]
    for component, base in WEIGHTS.items():
        found = _weight_files(directory, component, variant) or _weight_files(directory, component, None)
        if found is None:
            _refuse(f"{directory / component} has no {base}.safetensors: {remedy}")
        for path in found:
            if path.suffix == ".safetensors":
                check_safetensors(path, remedy)
        files += found
    return ResolvedCheckpoint(directory=directory, variant=variant, commit=commit, files=tuple(files))


def check_safetensors(path: Path, remedy: str) -> None:
    """Compare a file's size with what its header promises.

    Source: the safetensors format; 8 bytes little-endian header length, JSON header, then the tensors, of which the
    last ends the file.

    Raises:
        StartupError: it is missing, truncated or not in this format.
    """
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if header_bytes > _MAX_HEADER_BYTES:
                _refuse(f"{path} is not a safetensors file: {remedy}")
            header = json.loads(file.read(header_bytes)) if size_bytes >= 8 + header_bytes else None
        if header is None:
            _refuse(f"{path} is truncated within its header ({size_bytes} bytes): {remedy}")
        ends = [int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"]
    except OSError as error:
        _refuse(f"{path} cannot be read ({error.strerror}): {remedy}")
    except (ValueError, KeyError, TypeError, AttributeError):
        _refuse(f"{path} is not a safetensors file: {remedy}")
    expected_bytes = 8 + header_bytes + max(ends, default=0)
    if size_bytes != expected_bytes:
        _refuse(f"{path} is truncated: it has {size_bytes} of {expected_bytes} bytes; {remedy}")


def _weight_files(directory: Path, component: str, variant: str | None) -> list[Path] | None:
    """Weight files of one component: one file, or an index and its shards; None if there is neither."""
    folder, base = directory / component, WEIGHTS[component]
    infix = f".{variant}" if variant else ""
    single = folder / f"{base}{infix}.safetensors"
    if single.exists():
        return [single]
    index = folder / f"{base}.safetensors.index{infix}.json"
    if not index.exists():
        return None
    shards = sorted(set(_read_json(index, "fetch it again").get("weight_map", {}).values()))
    return [index, *(folder / shard for shard in shards)]


def _check_configs(directory: Path, configs: dict[str, dict[str, Any]]) -> None:
    for problem in _config_problems(**configs):
        _refuse(f"{directory} is not an SVD checkpoint: {problem}")


def _config_problems(
    *,
    unet: dict[str, Any],
    vae: dict[str, Any],
    image_encoder: dict[str, Any],
    feature_extractor: dict[str, Any],
    scheduler: dict[str, Any],
) -> Iterator[str]:
    if unet.get("_class_name") != "UNetSpatioTemporalConditionModel":
        yield f"its unet is {unet.get('_class_name')}, not UNetSpatioTemporalConditionModel"
    if vae.get("_class_name") != "AutoencoderKLTemporalDecoder":
        yield f"its vae is {vae.get('_class_name')}, not AutoencoderKLTemporalDecoder"
    latents = vae.get("latent_channels", 4)
    # The conditioning latents are stacked on the noisy ones.
    if unet.get("in_channels", 8) != 2 * latents:
        yield f"the unet's in_channels must be twice the vae's {latents} latent_channels, got {unet.get('in_channels')}"
    if unet.get("out_channels", 4) != latents:
        yield f"the unet's out_channels must be the vae's {latents} latent_channels, got {unet.get('out_channels')}"
    if "CLIPVisionModelWithProjection" not in (image_encoder.get("architectures") or []):
        yield f"its image_encoder is {image_encoder.get('architectures')}, not CLIPVisionModelWithProjection"
    width, projection = unet.get("cross_attention_dim", 1024), image_encoder.get("projection_dim", 512)
    if isinstance(width, int) and width != projection:
        yield f"the unet's cross_attention_dim {width} is not the image encoder's projection_dim {projection}"
    if feature_extractor.get("image_processor_type", feature_extractor.get("feature_extractor_type")) is None:
        yield "its feature_extractor names no type"
    if scheduler.get("_class_name") != "EulerDiscreteScheduler":
        yield f"its scheduler is {scheduler.get('_class_name')}, not EulerDiscreteScheduler"
    # What diffusers takes where it is not said is another.
    if scheduler.get("prediction_type", "epsilon") != "v_prediction":
        yield f"the scheduler's prediction_type must be v_prediction, got {scheduler.get('prediction_type')}"


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        _refuse(f"{path} is missing: {remedy}")
    except (OSError, ValueError):
        _refuse(f"{path} cannot be read as JSON: {remedy}")
    if not isinstance(content, dict):
        _refuse(f"{path} cannot be read as a JSON object: {remedy}")
    return content


def _refuse(sentence: str) -> NoReturn:
    raise StartupError(sentence, exit_code=ExitCode.MODEL_INVALID)
