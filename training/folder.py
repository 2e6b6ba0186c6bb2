"""A run's folder: what the run was begun with, where its files are, and which stages are done."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.config import PRESETS, STAGES, Preset
from training.errors import RefusedError, reading, replacing, writing
from training.photo_files import digest, find_photos, open_photo

#: the stages that each one builds on.
_PREDECESSORS: dict[str, tuple[str, ...]] = {"vae": (), "temporal-decoder": ("vae",), "unet": ("vae",)}
_WEIGHTS = "weights.safetensors"
#: what makes a folder a checkpoint in diffusers' format.
INDEX = "model_index.json"
#: in the folder of a checkpoint, while it is written.
PARTIAL = ".partial"


@dataclass(frozen=True)
class RunRecord:
    """What a run was begun with; every stage of it is trained with the same."""

    #: all values of the preset, with its name and seed, as JSON has them.
    preset: dict[str, Any]
    #: the folder of photos, as it was given.
    images: str
    #: SHA-256 of each photo by its path in that folder.
    photos: dict[str, str]

    @classmethod
    def of(cls, preset: Preset, images: Path) -> RunRecord:
        """What a run is begun with now; raises RefusedError when there are no photos in the folder `images`."""
        photos = {path.relative_to(images).as_posix(): digest(path) for path in find_photos(images)}
        return cls(_values(preset), str(images), photos)


class RunFolder:
    """The folder of one run; nothing is made in it before `begin`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.image_encoder = path / "image-encoder" / _WEIGHTS
        self.record = path / "run.json"

    def weights(self, stage: str) -> Path:
        """Where a stage's weights are once it is done."""
        return self.path / stage / _WEIGHTS

    def state(self, stage: str) -> Path:
        """Where a stage under way goes on from."""
        return self.path / stage / "state.pt"

    def log(self, stage: str) -> Path:
        """The curves of a stage, lines of JSON."""
        return self.path / stage / "log.jsonl"

    def done(self, stage: str) -> bool:
        """Whether a stage has been trained to its end."""
        return self.weights(stage).exists()

    def find_preset(self, name: str | None) -> Preset:
        """The preset of that name; None: the one that the run was begun with, else `tiny`.

        Raises:
            RefusedError: the run was begun with another one, or with other values of it.
            TrainingError: the record of what it was begun with is damaged.
        """
        record = self._read()
        if record is None:
            return PRESETS[name or "tiny"]
        begun = record.preset["name"]
        if name not in (None, begun):
            raise RefusedError(
                f"{self.path} was begun with the preset {begun}, not {name}: take another folder as --run"
            )
        if begun not in PRESETS:
            raise RefusedError(f"{self.path} was begun with the preset {begun}, which is no more: take another --run")
        now = _values(PRESETS[begun])
        changed = [name for name in {**record.preset, **now} if record.preset.get(name) != now.get(name)]
        if changed:
            raise RefusedError(
                f"{self.path} was begun with other values of {', '.join(changed)} than the preset {begun} has now: "
                "take another folder as --run"
            )
        return PRESETS[begun]

    def check_begun(self) -> RunRecord:
        """What the run was begun with; raises RefusedError if none was begun here."""
        record = self._read()
        if record is None:
            raise RefusedError(f"{self.path} is not the folder of a run, it has no run.json: name one as --run")
        return record

    def check_exportable(self, unfinished: bool) -> None:
        """Raise RefusedError if a checkpoint cannot be made yet; `unfinished`: with stages that are not done."""
        self.check_begun()
        for stage in ("vae",) if unfinished else STAGES:
            if not self.done(stage):
                also = "" if stage == "vae" else ", or pass --unfinished to export what there is"
                raise RefusedError(f"the stage {stage} is not done in {self.path}: train it first{also}")
        if not self.image_encoder.exists():
            raise RefusedError(
                f"{self.path} has no image encoder: temporal-decoder and unet make it as they begin, train one first"
            )

    def check_held_out(self, photos: list[Path]) -> None:
        """Raise RefusedError if a photo is one that the run was begun with."""
        known = set(self.check_begun().photos.values())
        for photo in photos:
            if digest(photo) in known:
                raise RefusedError(
                    f"{photo} is one of the photos that {self.path} was trained on: measure on others, with --photos"
                )

    def check_copy(self, directory: Path) -> None:
        """Raise RefusedError if a copy of the run would overwrite it."""
        if directory.resolve() == self.path.resolve():
            raise RefusedError(f"{directory} is the run itself: name another folder for its copy")

    def check_predecessors(self, stage: str) -> None:
        """Raise RefusedError if a stage that this one builds on is not done."""
        for earlier in _PREDECESSORS[stage]:
            if not self.done(earlier):
                raise RefusedError(
                    f"the stage {stage} builds on {earlier}, which is not done in {self.path}: train {earlier} first"
                )

    def check_photos(self, preset: Preset, images: Path) -> list[Path]:
        """The photos to train on: the same at each stage, and each was decoded before the first.

        Raises:
            RefusedError: the run was begun with others, there are none, or one of them cannot be decoded.
        """
        photos, record = find_photos(images), self._read()
        if record is None:
            for path in photos:
                open_photo(path)
        elif record.photos != RunRecord.of(preset, images).photos:
            raise RefusedError(
                f"{self.path} was begun with the photos of {record.images}, and those of {images} are others: "
                "pass the same as --images, or take another folder as --run"
            )
        return photos

    def begin(self, preset: Preset, images: Path) -> None:
        """Write down what the run is begun with, if that was not done yet."""
        if self._read() is None:
            record = asdict(RunRecord.of(preset, images))
            with replacing(self.record) as partial:
                partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Keep other commands from training in the folder, which is made, until the block or this process ends.

        Raises:
            RefusedError: another one does; after a launcher was killed, the processes that it started may live on.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "lock").open("a")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RefusedError(
                    f"another process trains in {self.path}: wait for its end, stop it, or take another folder as --run"
                ) from None
            yield

    def _read(self) -> RunRecord | None:
        if not self.record.exists():
            if any((self.path / stage).exists() for stage in STAGES):
                raise RefusedError(f"{self.path} has stages but no run.json: put it back, or take another --run")
            return None
        with reading(self.record):
            known = json.loads(self.record.read_text(encoding="utf-8"))
            if not isinstance(known["preset"], dict) or "name" not in known["preset"]:
                raise RefusedError(
                    f"{self.record} is of an older version and does not say which values and photos the run was "
                    "begun with: take another folder as --run"
                )
            return RunRecord(**known)


def check_checkpoint(directory: Path) -> None:
    """Raise RefusedError if there is no checkpoint in a directory."""
    if not (directory / INDEX).exists():
        raise RefusedError(f"{directory} is no checkpoint, it has no {INDEX}: make one with `export`")


def check_target(directory: Path) -> None:
    """Raise RefusedError if a checkpoint would be mixed with other files, or cannot be written there."""
    if directory.exists() and not directory.is_dir():
        raise RefusedError(f"{directory} is a file: name a folder for the checkpoint")
    found = {path.name for path in directory.iterdir()} if directory.exists() else set()
    if found and not found & {INDEX, PARTIAL}:
        raise RefusedError(f"{directory} holds something else than a checkpoint: name an empty or a new folder")


def _values(preset: Preset) -> dict[str, Any]:
    """A preset's values by dotted name, as JSON gives them back."""
    values: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(asdict(preset))).items():
        values |= {f"{name}.{inner}": it for inner, it in value.items()} if isinstance(value, dict) else {name: value}
    return values
