"""Images inside an `image_url`."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.data_uri import decode_data_uri, is_data_uri
from shared.errors import InvalidInputError


@given(st.binary())
def test_what_was_put_in_comes_out(data: bytes) -> None:
    payload = base64.b64encode(data).decode()
    for head in ("data:image/png;base64,", "DATA:Image/SVG+XML;charset=utf-8;BASE64,"):
        assert is_data_uri(head)
        assert decode_data_uri(head + payload, len(data)) == data
        assert decode_data_uri(head + payload.rstrip("="), len(data)) == data
        assert decode_data_uri(head + payload.replace("+", "%2B").replace("=", "%3D"), len(data)) == data


@given(st.binary(min_size=1))
def test_one_byte_over_the_limit_is_refused(data: bytes) -> None:
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    with pytest.raises(InvalidInputError, match=f"at most {len(data) - 1} bytes") as refusal:
        decode_data_uri(uri, len(data) - 1)
    assert refusal.value.field == "image_url"


@pytest.mark.parametrize(
    "uri",
    [
        "data:",
        "data:,",
        "data:;base64,AAAA",
        "data:image/png,AAAA",
        "data:image/png;base64",
        "data:image/png;base64;AAAA",
        "data:image/;base64,AAAA",
        "data:text/html;base64,AAAA",
        "data:application/octet-stream;base64,AAAA",
        " data:image/png;base64,AAAA",
        "data:image/png;base64,A",
        "data:image/png;base64,AA=A",
        "data:image/png;base64,AA A",
        "data:image/png;base64,AA\nAA",
        "data:image/png;base64,AA-_",
        "data:image/png;base64,ÄÄÄÄ",
        "data:image/png;base64,====",
        "data:image/png;base64,%00%00%00%00",
        "https://example.com/a.png",
    ],
)
def test_another_form_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^image_url must (be of the form|hold valid base64)"):
        decode_data_uri(uri, 100)


def test_a_long_uri_is_not_repeated_in_the_message() -> None:
    with pytest.raises(InvalidInputError) as refusal:
        decode_data_uri("data:image/png;base64," + "ä" * 10_000, 100_000)
    assert len(str(refusal.value)) < 200
