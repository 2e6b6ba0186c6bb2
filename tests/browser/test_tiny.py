"""The model that comes with Animatic, from the page to the screen."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect
from support import Service

ROCKET = Path(__file__).parents[2] / "docs" / "samples" / "rocket.jpg"


def test_the_embedded_models_video_plays_in_the_page(site: Service, page: Page) -> None:
    worker = site.start_worker("tiny")
    try:
        page.goto("/")
        expect(page.locator("#model option")).to_have_count(2)
        page.get_by_label("Model", exact=True).select_option("tiny")
        expect(page.locator("#model-help")).to_contain_text("1 worker ready")
        page.locator("#pick").set_input_files(ROCKET)
        page.get_by_role("button", name="Make video").click()
        expect(page.locator("#stage-status")).to_contain_text("succeeded", timeout=120_000)
        page.wait_for_function("() => (document.querySelector('#stage video')?.currentTime ?? 0) > 0.05")
        assert page.locator("#stage video").evaluate("video => [video.videoWidth, video.videoHeight]") == [256, 128]
    finally:
        worker.stop()
