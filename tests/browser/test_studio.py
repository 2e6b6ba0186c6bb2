"""Studio, as somebody who was not told how to use it: a photo becomes a video that plays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect
from support import Service

SAMPLES = Path(__file__).parents[2] / "docs" / "samples"
ROCKET = SAMPLES / "rocket.jpg"
PLAYS = "video => video.currentTime > 0.05"


def choose(page: Page, *files: Path) -> None:
    page.locator("#pick").set_input_files(list(files))


def test_a_photo_becomes_a_video_that_plays_beside_it(site: Service, page: Page, look: Callable[..., None]) -> None:
    page.goto("/")
    expect(page.locator("#recent")).to_contain_text("None yet")
    look(page, "studio-empty", views=("narrow-light", "wide-dark"))
    choose(page, ROCKET)
    expect(page.locator("#crop figcaption")).to_have_text("Starts from this: 256 × 128 px, crop")
    page.get_by_label("Inference steps").or_(page.locator("#num_inference_steps")).first.evaluate(
        "field => { field.closest('details').open = true }"
    )
    page.locator("#num_inference_steps").fill("40")
    page.get_by_role("button", name="Make video").click()
    status = page.locator("#stage-status")
    expect(status).to_contain_text("Step")
    expect(status.get_by_role("progressbar")).to_be_visible()
    look(page, "studio-running", views=("narrow-dark", "wide-light"))
    video = page.locator("#stage video")
    expect(video).to_be_visible()
    page.wait_for_function(f"() => ({PLAYS})(document.querySelector('#stage video'))")
    assert video.evaluate("video => video.muted && video.loop")
    expect(page.locator("#stage img")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download MP4").click()
    assert download.value.path().read_bytes()[4:8] == b"ftyp"
    look(page, "studio-video")
