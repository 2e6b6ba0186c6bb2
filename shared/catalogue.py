"""The models that Animatic knows, without torch: the API validates against it, workers load by it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from shared.errors import InvalidInputError, StartupError
from shared.exit_codes import ExitCode
from shared.params import FramesFormat, GenerationOptions, GenerationParams, ResizeMode, draw_seed

_STABILITY_LICENCE = "Stability AI Community License"


#: it stands in queue names, host names and URLs.
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def queue_name(model: str) -> str:
    """Name of the Celery queue whose messages wake a model's workers."""
    return f"generate.{model}"


@dataclass(frozen=True)
class ModelEntry:
    """One model: where its files come from, and what it does best."""

    name: str
    title: str
    #: Hugging Face repository; None for a model that comes with Animatic or lies in a directory.
    repository: str | None
    #: commit of the repository, so that the same name always means the same weights.
    revision: str | None
    #: file variant in the repository, such as `fp16`.
    variant: str | None
    #: local directory in diffusers' format; None: fetched, or part of Animatic.
    directory: str | None
    #: whether the repository asks for terms to be accepted and a token.
    gated: bool
    licence: str
    #: the most pixels of one frame that the model is offered for.
    max_pixels: int
    max_num_frames: int
    #: all but the seed; `seed` is drawn for each job.
    defaults: GenerationParams

    @property
    def queue(self) -> str:
        """Name of the Celery queue whose messages wake this model's workers."""
        return queue_name(self.name)

    @property
    def source(self) -> Literal["hub", "directory", "embedded", "double"]:
        """Where the model comes from: fetched, a local directory, part of Animatic, or no model at all."""
        if self.directory is not None:
            return "directory"
        if self.repository is not None:
            return "hub"
        return "double" if self.name == "double" else "embedded"


_SVD_DEFAULTS = GenerationParams(
    width=1024,
    height=576,
    resize_mode=ResizeMode.CROP,
    num_frames=14,
    num_inference_steps=25,
    fps=7,
    playback_fps=7,
    motion_bucket_id=127,
    noise_aug_strength=0.02,
    min_guidance_scale=1.0,
    max_guidance_scale=3.0,
    decode_chunk_size=8,
    seed=0,
    frames_format=FramesFormat.NONE,
)

_SVD = ModelEntry(
    name="svd",
    title="Stable Video Diffusion, 14 frames",
    repository="stabilityai/stable-video-diffusion-img2vid",
    revision="9cf024d5bfa8f56622af86c884f26a52f6676f2e",
    variant="fp16",
    directory=None,
    gated=False,
    licence=_STABILITY_LICENCE,
    max_pixels=1024 * 1024,
    max_num_frames=25,
    defaults=_SVD_DEFAULTS,
)
_SVD_XT = replace(
    _SVD,
    name="svd-xt",
    title="Stable Video Diffusion XT, 25 frames",
    repository="stabilityai/stable-video-diffusion-img2vid-xt",
    revision="9e43909513c6714f1bc78bcb44d96e733cd242aa",
    max_num_frames=50,
    defaults=_SVD_DEFAULTS.model_copy(update={"num_frames": 25}),
)
_SVD_XT_1_1 = replace(
    _SVD_XT,
    name="svd-xt-1.1",
    title="Stable Video Diffusion XT 1.1, 25 frames",
    repository="stabilityai/stable-video-diffusion-img2vid-xt-1-1",
    revision="043843887ccd51926e3efed36270444a838e7861",
    gated=True,
)
_TINY = ModelEntry(
    name="tiny",
    title="A miniature in SVD's format that comes with Animatic, to try the service on any machine",
    repository=None,
    revision=None,
    variant=None,
    directory=None,
    gated=False,
    licence="Apache-2.0",
    max_pixels=512 * 512,
    max_num_frames=25,
    # The size and frames that it was trained at. More steps make it no sharper, guidance only adds contrast and time.
    defaults=_SVD_DEFAULTS.model_copy(
        update={
            "width": 256,
            "height": 128,
            "num_inference_steps": 8,
            "max_guidance_scale": 1.0,
            "decode_chunk_size": 14,
        }
    ),
)
#: it takes whatever a request may ask for.
_DOUBLE = replace(
    _TINY,
    name="double",
    title="No model: a test double that only takes time",
    max_pixels=2048 * 2048,
    max_num_frames=50,
)

BUILT_IN = {entry.name: entry for entry in (_TINY, _SVD, _SVD_XT, _SVD_XT_1_1)}

#: found by name, but neither offered nor listed: for tests of everything around the model.
FOR_TESTS = {_DOUBLE.name: _DOUBLE}


class Catalogue:
    """The models of one installation, by name."""

    def __init__(self, entries: Iterable[ModelEntry]) -> None:
        self._entries = {entry.name: entry for entry in entries}

    @classmethod
    def from_names(cls, names: Iterable[str]) -> Catalogue:
        """Read the setting `models`: built-in names, and `NAME=DIRECTORY` for local checkpoints.

        Raises:
            StartupError: a name is not built in and has no directory, or there is none.
        """
        entries = [find_entry(name) for name in names]
        if not entries:
            raise StartupError("ANIMATIC_MODELS must name at least one model", exit_code=ExitCode.CONFIG)
        return cls(entries)

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self._entries.values())

    def get(self, name: str) -> ModelEntry:
        """The entry of this name.

        Raises:
            InvalidInputError: there is none.
        """
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(self._entries)
            raise InvalidInputError(f"model must be one of {known}, got {name!r}", field="model") from None


def find_entry(name: str) -> ModelEntry:
    """The entry for a built-in name, `NAME=DIRECTORY`, or a directory, which is then called by its last part.

    Raises:
        StartupError: none of them.
    """
    label, has_directory, directory = name.partition("=")
    if has_directory and label and directory:
        return _directory_entry(label, directory)
    if "/" in name and not has_directory:
        return _directory_entry(Path(name).name, name)
    for entries in (BUILT_IN, FOR_TESTS):
        if name in entries:
            return entries[name]
    raise StartupError(
        f"unknown model {name!r}: give one of {', '.join(BUILT_IN)}, or NAME=DIRECTORY for a local checkpoint",
        exit_code=ExitCode.CONFIG,
    )


def _directory_entry(name: str, directory: str) -> ModelEntry:
    if not _LABEL.fullmatch(name):
        raise StartupError(
            f"the name of a local model must be of letters, digits, '.', '_' and '-', got {name!r}; "
            "give it one: NAME=DIRECTORY",
            exit_code=ExitCode.CONFIG,
        )
    # The API may run where the directory is not; SVD-XT's frame count stands in then.
    try:
        config = json.loads((Path(directory) / "unet" / "config.json").read_text(encoding="utf-8"))
        num_frames = int(config["num_frames"])
    except (OSError, ValueError, KeyError, TypeError):
        num_frames = _SVD_XT.defaults.num_frames
    return replace(
        _SVD_XT,
        name=name,
        title=f"Local checkpoint {name}",
        repository=None,
        revision=None,
        variant=None,
        directory=directory,
        licence="see the checkpoint",
        defaults=_SVD_XT.defaults.model_copy(update={"num_frames": num_frames}),
    )


def resolve(options: GenerationOptions, entry: ModelEntry) -> GenerationParams:
    """Fill what the caller left out, draw the seed, and check what depends on the model.

    Raises:
        InvalidInputError: a value does not fit the model; names the field, the value and what would be right.
    """
    chosen = options.model_dump(exclude_none=True)
    chosen.setdefault("seed", draw_seed())
    if "fps" in chosen:
        chosen.setdefault("playback_fps", chosen["fps"])
    params = entry.defaults.model_copy(update=chosen)
    if params.width * params.height > entry.max_pixels:
        raise InvalidInputError(
            f"width × height must be at most {entry.max_pixels} for {entry.name}, "
            f"got {params.width}×{params.height} = {params.width * params.height}",
            field="width",
        )
    if params.num_frames > entry.max_num_frames:
        raise InvalidInputError(
            f"num_frames must be at most {entry.max_num_frames} for {entry.name}, got {params.num_frames}",
            field="num_frames",
        )
    if params.min_guidance_scale > params.max_guidance_scale:
        # The one that was not given follows, so that `max_guidance_scale: 0.5` alone is enough.
        if options.min_guidance_scale is None:
            params = params.model_copy(update={"min_guidance_scale": params.max_guidance_scale})
        else:
            params = params.model_copy(update={"max_guidance_scale": params.min_guidance_scale})
    return params.model_copy(update={"decode_chunk_size": min(params.decode_chunk_size, params.num_frames)})


def off_distribution(params: GenerationParams, entry: ModelEntry) -> list[str]:
    """What is legal, but not what the model was made for, as sentences for the caller."""
    native = entry.defaults
    warnings = []
    if params.motion_bucket_id > 255:
        warnings.append(f"motion_bucket_id {params.motion_bucket_id} is above 255, the highest that SVD was trained on")
    if params.noise_aug_strength > 0.5:
        warnings.append(f"noise_aug_strength {params.noise_aug_strength:g} hides most of the image; 0.02 is usual")
    if (params.width, params.height) != (native.width, native.height):
        warnings.append(
            f"{params.width}×{params.height} is not {entry.name}'s native size {native.width}×{native.height}"
        )
    if params.num_frames != native.num_frames:
        warnings.append(f"num_frames {params.num_frames} is not {entry.name}'s native {native.num_frames}")
    if not 5 <= params.fps <= 30:
        warnings.append(f"fps {params.fps} is outside 5 to 30, the range that SVD was trained on")
    return warnings
