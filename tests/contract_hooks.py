"""What Schemathesis cannot know of Animatic: how an image looks, and rules between two fields.

Only requests that are meant to be right are touched. One exemption is stated here: a URL that the schema allows, and
that the guard of outbound requests refuses, is sent as a data URI instead.
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
    if case.meta is None:
        return
    if not case.meta.generation.mode.is_positive:
        return
    if "wait" in (case.query or {}):
        # Jobs of the test double end within the second.
        case.query["wait"] = min(float(case.query["wait"]), 1)
    if "Idempotency-Key" in (case.headers or {}):
        # With another request it would rightly be refused.
        case.headers["Idempotency-Key"] = uuid4().hex
    if not isinstance(case.body, dict):
        return
    body = case.body
    if body.get("image_url") is not None:
        body["image_url"] = DATA_URI
    if body.get("image") is not None:
        body["image"] = Binary(IMAGE)
    if body.get("webhook_url") is not None:
        body["webhook_url"] = "https://example.com/hook"
    if case.path == "/v1/models/{name}/resolve":
        body["num_frames"] = 2
    if case.path == "/v1/jobs":
        # Streams wait for the end of the jobs that were made before.
        body["num_inference_steps"] = 1
        body["num_frames"] = 2
    # Of the model `tiny`, whose limits the schema does not know.
    width, height = (body.get(side) or 256 for side in ("width", "height"))
    if width * height > 512 * 512:
        body["width"] = body["height"] = 256
    low = body.get("min_guidance_scale")
    if low is not None:
        body["max_guidance_scale"] = max(low, body.get("max_guidance_scale") or 20)
    if "image" in body:
        # Schemathesis cannot judge a body with a file again, and would take what was changed here for wrong.
        case._record_starting_state()
