"""What a schema cannot tell Schemathesis: how an image looks, and rules that compare one value with another.

Only requests that are meant to be right are touched, and in these:

- bytes of an image are those of one;
- a URL, which the guard of outbound requests refuses unless it leads to the public internet, is a data URI, or a host
  that is known to be fine: the one exemption from what the schema allows;
- a guidance scale is not above the one that must be higher, and an Idempotency-Key was not used with another request.

All else goes out as it was made, however large a job it asks for: no worker runs it.
"""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any
from uuid import uuid4

import schemathesis
from hypothesis import strategies as st
from PIL import Image
from schemathesis.transport.serialization import Binary


def _image() -> bytes:
    file = BytesIO()
    Image.new("RGB", (64, 48), "teal").save(file, "PNG")
    return file.getvalue()


IMAGE = _image()
DATA_URI = f"data:image/png;base64,{base64.b64encode(IMAGE).decode()}"

schemathesis.openapi.format("binary", st.just(IMAGE))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = uuid4().hex
    if not isinstance(case.body, dict):
        return
    body = case.body
    if case.path == "/v1/experiments":
        _mend_experiment(body)
    for name, value in (("image_url", DATA_URI), ("webhook_url", "https://example.com/hook"), ("image", Binary(IMAGE))):
        if body.get(name) is not None:
            body[name] = value
    low = body.get("min_guidance_scale")
    if low is not None:
        body["max_guidance_scale"] = max(low, body.get("max_guidance_scale") or 20)
    if "image" in body:
        # Schemathesis cannot judge a body with a file again, and would take what was changed here for wrong.
        case._record_starting_state()


def _mend_experiment(body: dict[str, Any]) -> None:
    """One image, few cells, and no parameter that stands in two places or fits no other."""
    body["images"] = [{**body["images"][0], "image_url": DATA_URI}]
    body["images"][0].pop("input_id", None)
    grid, base = body["grid"], body.get("base") or {}
    for name in ("min_guidance_scale", "max_guidance_scale"):
        grid.pop(name, None)
        base.pop(name, None)
    body["grid"] = {name: grid[name][:3] for name in list(grid)[:2]} or {"seed": [1, 2]}
    body["base"] = {name: value for name, value in base.items() if name not in body["grid"]}
