"""The browser of the page's tests and pictures."""

from __future__ import annotations

import os
import shutil


def find_chromium() -> str:
    """TEST_CHROMIUM, or what is on the PATH."""
    found = os.environ.get("TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert found, "these tests need Chromium: apt-get install chromium, or name one in TEST_CHROMIUM"
    return found
