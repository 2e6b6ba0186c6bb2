"""Jobs with one photo share what its encoders gave, and every job gets the bits that it would get alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import PIL.Image
import PIL.ImageOps
import pytest
import torch
from torch import Tensor

from bench.svd.architecture import TOY, make_pipeline
from bench.svd_speed import make_params, make_photo
from worker.svd.encodings import EncodingCache, fingerprint
from worker.svd.exact import ExactEngine
from worker.svd.fast import FastEngine
from worker.svd.stopwatch import Stopwatch

CPU = torch.device("cpu")
BASE = make_params(4, 64, 64, 1, 3.0)

pytestmark = pytest.mark.usefixtures("one_thread")


class Watched:
    """An engine whose encoders' calls are counted."""

    def __init__(self, kind: type[ExactEngine]) -> None:
        self.engine = kind(make_pipeline(TOY, device=CPU, dtype=torch.float32), CPU)
        self.calls: Counter[str] = Counter()
        for name, module in (("clip", self.engine.pipe.image_encoder), ("vae", self.engine.pipe.vae.encoder)):
            module.register_forward_pre_hook(lambda *_, name=name: self.calls.update([name]))

    def run(self, photo: PIL.Image.Image, **changes: Any) -> Tensor:
        return self.engine.denoise(photo, BASE.model_copy(update=changes), lambda _step: None, Stopwatch())

    def run_alone(self, photo: PIL.Image.Image, **changes: Any) -> Tensor:
        self.engine.encodings.clear()
        return self.run(photo, **changes)


@pytest.fixture(scope="module", params=[ExactEngine, FastEngine])
def watched(request: pytest.FixtureRequest) -> Watched:
    return Watched(request.param)


@pytest.mark.parametrize(
    ("changes", "encoded"),
    [
        ({"motion_bucket_id": 255}, {}),
        ({"fps": 20, "num_frames": 3, "max_guidance_scale": 1.0}, {}),
        ({"seed": 8}, {"vae": 1}),
        ({"noise_aug_strength": 0.4}, {"vae": 1}),
    ],
    ids=str,
)
def test_a_job_after_another_with_its_photo_encodes_only_what_differs_and_gets_the_bits_it_gets_alone(
    watched: Watched, changes: dict[str, Any], encoded: dict[str, int]
) -> None:
    photo = make_photo(64, 64)
    alone = watched.run_alone(photo, **changes)
    watched.run_alone(photo)
    watched.calls.clear()
    # Another object, as another job's preparation makes it.
    assert torch.equal(watched.run(photo.copy(), **changes), alone)
    assert watched.calls == encoded


def test_another_photo_or_size_shares_nothing(watched: Watched) -> None:
    photo = make_photo(64, 64)
    watched.run_alone(photo)
    for other, changes in ((PIL.ImageOps.mirror(photo), {}), (make_photo(128, 64), {"width": 128})):
        watched.calls.clear()
        watched.run(other, **changes)
        assert watched.calls == {"clip": 1, "vae": 1}


def test_pictures_of_the_same_bytes_but_another_shape_differ() -> None:
    wide = PIL.Image.frombytes("RGB", (64, 32), bytes(64 * 32 * 3))
    high = PIL.Image.frombytes("RGB", (32, 64), bytes(64 * 32 * 3))
    assert wide.tobytes() == high.tobytes()
    assert fingerprint(wide) != fingerprint(high)
    assert fingerprint(wide) == fingerprint(wide.copy())


def test_the_cache_holds_no_more_bytes_than_it_may_and_drops_what_was_used_least_lately() -> None:
    made = []

    def make(key: str, floats: int = 100) -> Tensor:
        made.append(key)
        return torch.zeros(floats * 2)[:floats]

    cache = EncodingCache(max_bytes=3 * 400)
    for key in ("a", "b", "c", "a", "d", "a", "b"):
        cache.get(key, lambda key=key: make(key))
    assert made == ["a", "b", "c", "d", "b"]
    assert cache.num_bytes == 1200
    # A view keeps only what it shows.
    assert cache.get("a", torch.empty).untyped_storage().nbytes() == 400
    assert cache.get("large", lambda: make("large", 301)).shape == (301,)
    assert cache.num_bytes == 0
    cache.get("a", lambda: make("a"))
    cache.clear()
    assert cache.num_bytes == 0
