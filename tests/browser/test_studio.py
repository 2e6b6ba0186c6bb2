"""Studio, as somebody who was not told how to use it: a photo becomes a video that plays; and what may go wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page, Route, expect
from support import BOOTSTRAP_KEY, Service

SAMPLES = Path(__file__).parents[2] / "docs" / "samples"
ROCKET = SAMPLES / "rocket.jpg"
PLAYS = "() => (document.querySelector('#stage video')?.currentTime ?? 0) > 0.05"


def choose(page: Page, *files: Any) -> None:
    page.locator("#pick").set_input_files(list(files))


def set_steps(page: Page, steps: int) -> None:
    page.get_by_text("Quality", exact=True).click()
    page.get_by_label("Inference steps").fill(str(steps))


def make(page: Page) -> None:
    page.get_by_role("button", name="Make video").click()


def test_a_photo_becomes_a_video_that_plays_beside_it(site: Service, page: Page, look: Callable[..., None]) -> None:
    page.goto("/")
    expect(page.locator("#recent .card, #recent .empty")).not_to_have_count(0)
    look(page, "studio-empty", views=("narrow-light",))
    choose(page, ROCKET)
    expect(page.locator("#crop figcaption")).to_have_text("Starts from this: 256 × 128 px, crop")
    set_steps(page, 30)
    make(page)
    status = page.locator("#stage-status")
    expect(status).to_contain_text("Step")
    expect(status.get_by_role("progressbar")).to_be_visible()
    expect(page.locator("#stage video")).to_be_visible()
    page.wait_for_function(PLAYS)
    assert page.locator("#stage video").evaluate("video => video.muted && video.loop")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download MP4").click()
    assert download.value.path().read_bytes()[4:8] == b"ftyp"
    look(page, "studio")
    page.get_by_role("button", name="Copy as curl").click()
    assert "/v1/jobs" in page.get_by_role("dialog").get_by_role("textbox").input_value()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Copy as command").click()
    command = page.get_by_role("dialog").get_by_role("textbox").input_value()
    assert command.startswith(f"animatic submit rocket.jpg --url {site.url} --model double --wait")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Sweep this").click()
    expect(page.get_by_label("Name")).to_be_visible()
    expect(page.locator("#sources li")).to_have_text(re.compile("rocket.jpg"))
    page.go_back()
    page.get_by_role("link", name="Run again with…").click()
    expect(page.get_by_label("Inference steps", exact=False)).to_have_value("30")
    expect(page.locator("#sources li")).to_have_count(1)


GIVE = """([kind, name]) => {
  const data = new DataTransfer();
  data.items.add(new File(['GIF89a'], name, { type: 'image/gif' }));
  const event = kind === 'paste' ? new ClipboardEvent(kind, { clipboardData: data, bubbles: true })
    : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
  document.querySelector('#drop').dispatchEvent(event);
}"""


def test_images_are_dropped_and_pasted_and_the_form_follows_presets_and_model(page: Page) -> None:
    page.goto("/")
    bucket, steps = page.locator("#motion_bucket_id"), page.locator("#num_inference_steps")
    expect(bucket).to_have_value("127")
    page.evaluate(GIVE, ["drop", "dropped.gif"])
    page.evaluate(GIVE, ["paste", "pasted.gif"])
    expect(page.locator("#sources li")).to_have_count(2)
    expect(page.get_by_role("button", name="Make 2 videos")).to_be_visible()
    page.get_by_role("button", name="Remove dropped.gif").click()
    expect(page.get_by_role("button", name="Make video")).to_be_visible()
    choose(page, ROCKET)
    page.locator("summary", has_text="Frames").click()
    page.get_by_label("Resize mode").select_option("pad")
    expect(page.locator("#crop figcaption")).to_have_text("Starts from this: 256 × 128 px, pad")
    assert page.locator("#crop img").evaluate("image => getComputedStyle(image).objectFit") == "contain"
    # The tallest there may be is shown whole.
    page.locator("#width").fill("64")
    page.locator("#height").fill("2048")
    expect(page.locator("#crop figcaption")).to_contain_text("64 × 2048 px")
    frame = page.locator(".crop-frame").bounding_box()
    assert frame is not None
    assert frame["height"] <= 0.5 * page.evaluate("innerHeight") + 1
    assert frame["height"] / frame["width"] > 20
    page.get_by_role("button", name="Lively").click()
    expect(bucket).to_have_value("200")
    usual = int(steps.input_value())
    page.get_by_role("button", name="Draft").click()
    expect(steps).to_have_value(str(round(usual / 2)))
    expect(bucket).to_have_value("127")
    bucket.fill("90")
    page.get_by_role("button", name="Reset").click()
    expect(bucket).to_have_value("127")
    expect(page.get_by_label("Resize mode")).to_have_value("crop")
    page.get_by_label("Model", exact=True).select_option("tiny")
    expect(page.locator("#model-help")).to_contain_text("No worker is there: jobs wait until one starts")


def test_progress_is_asked_for_where_no_stream_comes_through(page: Page) -> None:
    page.route("**/events", lambda route: route.abort())
    page.goto("/")
    choose(page, ROCKET)
    # Longer than several polls: the first may still see it queued.
    set_steps(page, 100)
    make(page)
    expect(page.locator("#stage-status")).to_contain_text(re.compile(r"Step \d+ of 100, about .+ left"))
    expect(page.locator("#stage video")).to_be_visible()


def test_a_running_job_is_canceled(page: Page) -> None:
    page.goto("/")
    choose(page, ROCKET)
    set_steps(page, 100)
    make(page)
    expect(page.locator("#stage-status")).to_contain_text("Step")
    page.locator("#stage").get_by_role("button", name="Cancel").click()
    expect(page.locator("#stage-status")).to_contain_text("canceled")


def test_each_refusal_stands_beside_what_it_concerns_in_the_apis_own_words(
    page: Page, tmp_path: Path, look: Callable[..., None]
) -> None:
    page.goto("/")
    expect(page.locator("#motion_bucket_id")).to_have_value("127")
    make(page)
    expect(page.locator("#image-error")).to_contain_text("Choose an image first")
    choose(page, {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"})
    expect(page.locator("#image-error")).to_contain_text("notes.txt is not an image")
    choose(page, {"name": "huge.png", "mimeType": "image/png", "buffer": b"x" * 2_100_000})
    expect(page.locator("#image-error")).to_contain_text("huge.png has 2.1 MB; this service takes up to 2.0 MB")
    # Of the value, before anything is sent.
    page.get_by_label("Motion bucket").fill("600")
    expect(page.locator("#motion_bucket_id-error")).to_contain_text("should be less than or equal to 511, got 600")
    expect(page.get_by_label("Motion bucket")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Motion bucket").fill("300")
    expect(page.locator("#warnings")).to_contain_text("above 255, the highest that SVD was trained on")
    # Of the image, once it was looked at.
    choose(page, {"name": "broken.png", "mimeType": "image/png", "buffer": ROCKET.read_bytes()[:900]})
    make(page)
    expect(page.locator("#image-error")).to_contain_text("broken.png: ")
    expect(page.locator("#image-error")).to_contain_text("image")
    expect(page.locator("#crop")).to_be_hidden()
    look(page, "studio-refused", views=("wide-light",))


def test_a_cut_stream_is_resumed_and_the_lost_connection_is_told(site: Service, page: Page) -> None:
    page.goto("/")
    choose(page, ROCKET)
    set_steps(page, 100)
    make(page)
    expect(page.locator("#stage-status")).to_contain_text("Step")
    api = site.processes[0]
    api.popen.kill()
    api.popen.wait()
    expect(page.get_by_role("alert").filter(has_text="connection to the service is lost")).to_be_visible()
    site.processes[0] = site.start_api()
    expect(page.locator("#banner")).to_be_empty()
    expect(page.locator("#stage video")).to_be_visible(timeout=30_000)


def test_the_page_fills_in_when_the_service_behind_its_proxy_is_back(page: Page) -> None:
    answers: list[dict[str, Any]] = [
        {"status": 502, "content_type": "text/html", "body": "<h1>Bad Gateway</h1>"},
        {"status": 503, "json": {"code": "database_unavailable", "detail": "the database is not answering"}},
    ]

    def answer(route: Route) -> None:
        if answers:
            route.fulfill(**answers.pop(0))
        else:
            route.continue_()

    page.route("**/v1/models", answer)
    page.goto("/")
    expect(page.get_by_role("alert").filter(has_text="connection to the service is lost")).to_be_visible()
    expect(page.get_by_role("button", name="Make video")).to_be_disabled()
    expect(page.locator("#form-error")).to_have_text("the database is not answering")
    expect(page.locator("#banner")).to_be_empty()
    expect(page.locator("#motion_bucket_id")).to_have_value("127")
    expect(page.locator("#form-error")).to_be_empty()


def test_an_ended_sign_in_is_told_and_leads_back(
    context: BrowserContext, page: Page, sign_in: Callable[[BrowserContext, str], None]
) -> None:
    page.goto("/?from=job_1")
    expect(page.locator("#form-error")).to_contain_text("has been deleted")
    context.clear_cookies()
    choose(page, ROCKET)
    make(page)
    banner = page.get_by_role("alert").filter(has_text="Your sign-in has ended")
    expect(banner.get_by_role("link", name="Sign in again")).to_have_attribute(
        "href", re.compile(r"^/sign-in\?next=%2F%3Ffrom%3Djob_1$")
    )
    # In another tab: the token of this page is not that session's.
    sign_in(context, BOOTSTRAP_KEY)
    make(page)
    banner = page.get_by_role("alert").filter(has_text="You have signed in again elsewhere")
    banner.get_by_role("link", name="Load this page again").click()
    expect(page.locator("#banner")).to_be_empty()


def tab_to(page: Page, is_there: str) -> None:
    """Press Tab until the focus is there; a video's controls alone are half a dozen stops."""
    stops: list[str] = []
    for _ in range(150):
        if page.evaluate(is_there):
            return
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.outerHTML.slice(0, 80)"))
    raise AssertionError(f"Tab does not lead to where {is_there}, but to {stops}")


def test_everything_is_done_with_the_keyboard_alone(page: Page) -> None:
    # Asked for only when Space is pressed, a busy machine may open the chooser before it is taken.
    page.on("filechooser", lambda _: None)
    page.goto("/")
    expect(page.locator("#motion_bucket_id")).to_have_value("127")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#pick")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(ROCKET)
    expect(page.locator("#sources li")).to_have_count(1)
    tab_to(page, "document.activeElement.id === 'submit'")
    page.keyboard.press("Enter")
    expect(page.locator("#stage video")).to_be_visible()
    expect(page.get_by_text("Download MP4").first).to_be_visible()
    tab_to(page, "document.activeElement.textContent === 'Download MP4'")


def test_nothing_moves_by_itself_where_motion_is_not_wanted(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.goto("/")
    choose(page, ROCKET)
    make(page)
    expect(page.locator("#stage-status")).to_contain_text("succeeded")
    video = page.locator("#stage video")
    expect(video).to_be_visible()
    page.wait_for_timeout(300)
    assert video.evaluate("video => video.paused && video.currentTime === 0")
    video.evaluate("video => video.play()")
    page.wait_for_function(PLAYS)
