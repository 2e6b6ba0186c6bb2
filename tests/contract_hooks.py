"""What the schema cannot tell Schemathesis: how an image looks, and rules that compare one value with another.

Generated: the bytes of `format: binary` are real images, of each format that is accepted, in many sizes and modes.

Replaced: URLs alone, which the guard of outbound requests refuses unless they lead to the public internet. This is the
one exemption from what the schema allows; equal URLs stay equal, different ones different.

Judged: the API documents 422 for a request in which one value does not go with another. JSON Schema cannot say so, so
whoever keeps to the schema may break such a rule. Then, and only then, may a valid request be refused; and then it must
be. The rules are written down here once more, as `docs/http-api.md` has them.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

import schemathesis
from hypothesis import strategies as st
from photos import data_uri, encode, plain
from PIL import Image
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.transport.serialization import Binary

#: of one experiment; what the service is started with.
_CELLS_MAX = int(os.environ["CONTRACT_CELLS_MAX"])


def _encode(size: tuple[int, int], mode: str, colour: int, file_format: str) -> bytes:
    return encode(Image.new("RGB", size, f"#{colour:06x}").convert(mode), file_format)


_COLOURS = st.integers(0, 0xFFFFFF)
#: px; smaller ones are refused.
_SIDES = st.integers(32, 256)
_IMAGES = st.one_of(
    st.builds(_encode, st.tuples(_SIDES, _SIDES), st.sampled_from(modes), _COLOURS, st.just(file_format))
    for file_format, modes in (
        ("PNG", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        ("JPEG", ("L", "RGB", "CMYK")),
        ("WEBP", ("RGB", "RGBA")),
        ("GIF", ("L", "P")),
        ("TIFF", ("1", "L", "RGB", "RGBA", "CMYK")),
        ("BMP", ("1", "L", "RGB")),
        ("AVIF", ("L", "RGB", "RGBA")),
    )
)
schemathesis.openapi.format("binary", _IMAGES.map(Binary))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    if not _meant_to_be_right(case) or not isinstance(case.body, dict):
        return
    for item in (case.body, *(case.body.get("images") or ())):
        if item.get("image_url") is not None:
            item["image_url"] = _data_uri(item["image_url"])
        if item.get("webhook_url") is not None:
            item["webhook_url"] = "https://example.com/hook"
    if "image" in case.body:
        # Schemathesis cannot judge a body with a file again, and would take what was changed here for wrong.
        case._record_starting_state()


def _data_uri(url: str) -> str:
    colour = int.from_bytes(hashlib.sha256(url.encode(errors="surrogatepass")).digest()[:3])
    return data_uri(plain(f"#{colour:06x}"))


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """A documented 422 is the right answer to what breaks a rule between values."""
    is_refusal = isinstance(failure, RejectedPositiveData) and response.status_code == 422
    return not (is_refusal and any(_broken_rules(case)))


@schemathesis.check
def rules_between_values_hold(ctx: Any, response: Any, case: Any) -> None:
    if _meant_to_be_right(case) and (rules := list(_broken_rules(case))):
        assert response.status_code >= 400, f"accepted, although {' and '.join(rules)}"


def _meant_to_be_right(case: Any) -> bool:
    return case.meta is not None and case.meta.generation.mode.is_positive


def _broken_rules(case: Any) -> Iterator[str]:
    if not isinstance(case.body, dict):
        return
    if case.path == "/v1/experiments":
        yield from _broken_experiment(case.body)
    elif case.path in ("/v1/jobs", "/v1/models/{name}/resolve"):
        yield from _crossed_guidance({name: [value] for name, value in case.body.items()})


def _broken_experiment(body: dict[str, Any]) -> Iterator[str]:
    images, grid = body["images"], body["grid"]
    base = {name: value for name, value in (body.get("base") or {}).items() if value is not None}
    if not _differ((image.get("image_url"), image.get("input_id")) for image in images):
        yield "images are the same"
    if not _differ(image.get("name") or f"image_{number}" for number, image in enumerate(images)):
        yield "images have the same name"
    if grid.keys() & base.keys():
        yield "grid and base set the same parameter"
    if len(images) * math.prod(map(len, grid.values())) > _CELLS_MAX:
        yield "there are too many cells"
    yield from _crossed_guidance({**{name: [value] for name, value in base.items()}, **grid})


def _crossed_guidance(values: dict[str, list[Any]]) -> Iterator[str]:
    low, high = (
        [value for value in values.get(name, ()) if value is not None]
        for name in ("min_guidance_scale", "max_guidance_scale")
    )
    if low and high and max(low) > min(high):
        yield "min_guidance_scale exceeds max_guidance_scale"


def _differ(values: Iterable[Any]) -> bool:
    listed = list(values)
    return len(set(listed)) == len(listed)
