"""What an image is called when the request does not say: strangers choose the names of files."""

from __future__ import annotations

import pytest

from api.intake import ImageSource


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("rocket.jpg", "rocket.jpg"),
        ("Röntgen 2.PNG", "Röntgen 2.PNG"),
        ("../../etc/passwd", "passwd"),
        (r"C:\fakepath\rocket.jpg", "rocket.jpg"),
        ("a\0b\x1b]0;c\r\n.png", "ab]0;c.png"),
        ("gpj\u202egnp.exe", "gpjgnp.exe"),
        ("\udcff.png", ".png"),
        ("x" * 300, "x" * 255),
        ("photos/", None),
        ("-", None),
        (" ", None),
        ("", None),
        (None, None),
    ],
)
def test_a_file_gives_its_last_part_in_printable_characters(file: str | None, name: str | None) -> None:
    assert ImageSource(upload=b"", upload_name=file).file_name() == name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.com/photos/rocket%201.jpg?size=large#top", "rocket 1.jpg"),
        ("https://example.com/a%2Fb.png", "b.png"),
        ("https://example.com/%FF%00.png", "\ufffd.png"),
        ("https://example.com/", None),
        ("https://example.com", None),
        ("data:image/png;base64,AAAA/rocket.jpg", None),
    ],
)
def test_a_url_gives_the_last_part_of_its_path(url: str, name: str | None) -> None:
    assert ImageSource(url=url).file_name() == name
