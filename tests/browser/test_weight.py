"""What each page weighs and how soon something is seen; printed, and held below 100 KB without media."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import BrowserContext, Page, expect
from support import BOOTSTRAP_KEY, Service

LIMIT_BYTES = 100_000
#: all that was fetched; images and videos of jobs are told apart by their URLs.
MEASURE = """() => {
  const entries = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
  const isMedia = ({ name }) => /\\/(video|image|frames\\/\\d+)$|\\/files\\//.test(new URL(name).pathname);
  const own = entries.filter((entry) => !isMedia(entry) && !new URL(entry.name).pathname.endsWith("/events"));
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  const seen = own.filter((entry) => entry.startTime <= paint.startTime);
  const sum = (list) => list.reduce((bytes, entry) => bytes + entry.transferSize, 0);
  return { bytes: sum(own), requests: own.length, bytes_to_paint: sum(seen), paint_ms: Math.round(paint.startTime) };
}"""


def weigh(page: Page, path: str, ready: str) -> dict[str, Any]:
    page.goto(path)
    expect(page.locator(ready).first).to_be_visible()
    page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length")
    found: dict[str, Any] = page.evaluate(MEASURE)
    return found


def test_every_page_is_light(site: Service, new_context: Callable[..., BrowserContext], rocket: bytes) -> None:
    job = site.submit(rocket, num_inference_steps=1)
    site.job(job["id"], wait_s=60)
    request = {
        "name": "weighed",
        "model": "double",
        "images": [{"input_id": job["input_id"]}],
        "grid": {"motion_bucket_id": [1, 2]},
        "base": {"num_inference_steps": 1},
    }
    experiment = site.request("POST", "/v1/experiments", json=request).json()
    pages = {
        "/sign-in": "#key",
        "/": "#recent .card",
        "/jobs": ".tile",
        f"/jobs/{job['id']}": "#params dt",
        "/experiments": "#experiments .card",
        f"/experiments/{experiment['id']}": ".cell",
    }
    print(f"\n{'page':20} {'requests':>8} {'bytes':>8} {'until first paint':>18} {'first paint':>12}")
    for path, ready in pages.items():
        # Nothing is in this browser's cache.
        page = new_context(None if path == "/sign-in" else BOOTSTRAP_KEY).new_page()
        found = weigh(page, path, ready)
        name = path.replace(job["id"], "{id}").replace(experiment["id"], "{id}")
        print(
            f"{name:20} {found['requests']:8} {found['bytes']:8} {found['bytes_to_paint']:18} {found['paint_ms']:9} ms"
        )
        assert 0 < found["bytes"] < LIMIT_BYTES, path
