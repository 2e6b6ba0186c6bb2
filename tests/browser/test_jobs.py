"""The page of one job, and the gallery with the queue."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect
from support import Receiver, Service, eventually

#: jobs of five seconds each: enough of them wait while the screenshots are taken.
SLOW = 6


@pytest.fixture
def finished(site: Service, rocket: bytes) -> Callable[..., dict[str, Any]]:
    def finished(**fields: Any) -> dict[str, Any]:
        return site.job(site.submit(rocket, **{"num_inference_steps": 1, **fields})["id"], wait_s=60)

    return finished


def test_a_jobs_page_shows_all_that_is_known_of_it_and_sends_its_webhook_again(
    site: Service, page: Page, finished: Callable[..., dict[str, Any]], receiver: Receiver, look: Callable[..., None]
) -> None:
    job = finished(frames_format="webp", image_name="<b>rocket</b>.jpg", webhook_url=receiver.url)
    page.goto(f"/jobs/{job['id']}")
    expect(page.get_by_role("heading", name="<b>rocket</b>.jpg")).to_be_visible()
    expect(page.locator("#params")).to_contain_text(str(job["params"]["seed"]))
    expect(page.locator("#timeline li")).to_have_count(3)
    expect(page.locator("#timings")).to_contain_text("denoise")
    expect(page.locator("#manifest")).to_contain_text(job["id"])
    expect(page.locator("#frames img")).to_have_count(14)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all as ZIP").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.testzip() is None
        assert [name for name in archive.namelist() if Image.open(archive.open(name)).size == (256, 128)] == [
            f"{number:04}.webp" for number in range(14)
        ]
    expect(page.locator("[data-delivery=delivered]")).to_be_visible(timeout=20_000)
    look(page, "job")
    page.get_by_role("button", name="Send again").dblclick()
    eventually(lambda: len(receiver.requests) == 2)
    expect(page.locator("[data-delivery=delivered]")).to_be_visible(timeout=20_000)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="There is no such job")).to_be_visible()
    expect(page.get_by_role("link", name="Make a new one")).to_be_visible()


def in_fours(page: Page) -> None:
    """Lets the gallery ask for pages of four jobs, so that a few make several."""

    def smaller(route: Route) -> None:
        answer = route.fetch()
        script = answer.text()
        assert "const PAGE = 24;" in script
        route.fulfill(response=answer, body=script.replace("const PAGE = 24;", "const PAGE = 4;"))

    page.route("**/static/jobs.js", smaller)


def test_the_gallery_filters_pages_and_cancels_and_deletes_many(
    site: Service, page: Page, rocket: bytes, finished: Callable[..., dict[str, Any]], look: Callable[..., None]
) -> None:
    done = finished(image_name="rocket.jpg", labels={"set": "gallery"})
    for _ in range(SLOW):
        site.submit(rocket, num_inference_steps=100, image_name="slow", labels={"set": "gallery"})
    in_fours(page)
    page.goto("/jobs")
    tiles = page.locator(".tile")
    page.get_by_label("Label").fill("nonsense")
    page.keyboard.press("Tab")
    expect(page.locator("#label-error")).to_contain_text("label must be NAME=VALUE")
    page.get_by_label("Label").fill("set=gallery")
    page.keyboard.press("Tab")
    expect(tiles).to_have_count(4)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("button", name="Show more").dblclick()
    expect(tiles).to_have_count(SLOW + 1)
    assert sum("after=" in url for url in asked) == 1
    expect(page.locator("#more")).to_be_hidden()
    expect(page.locator("[data-status=running] progress").first).to_be_visible()
    expect(page.locator("#workers")).to_contain_text("busy")
    look(page, "jobs")
    for box in page.get_by_label("Choose slow").all():
        box.check()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("[data-status=queued], [data-status=running]")).to_have_count(0)
    expect(page.locator("[data-status=canceled]")).not_to_have_count(0)
    page.get_by_label("Status").select_option("succeeded")
    expect(page.locator(".tile:not([data-status=succeeded])")).to_have_count(0)
    # What was asked before the filter was chosen comes late, and is not shown.
    late: list[Route] = []
    page.route(re.compile(r"/v1/jobs\?limit=\d+$"), lambda route: late.append(route))
    page.reload()
    page.get_by_label("Status").select_option("succeeded")
    expect(page.locator(".tile[data-status=succeeded]")).not_to_have_count(0)
    with page.expect_response(re.compile(r"/v1/jobs\?limit=\d+$")):
        late[0].continue_()
    page.wait_for_timeout(200)
    assert page.locator(".tile:not([data-status=succeeded])").count() == 0
    expect(tiles.get_by_role("link", name="rocket.jpg")).to_have_attribute("href", f"/jobs/{done['id']}")
    page.get_by_label("To").fill("2020-01-01")
    expect(page.locator("#tiles")).to_contain_text("No job fits these filters")
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Label").fill("set=gallery")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Show more").click()
    expect(tiles).to_have_count(SLOW + 1)
    for box in page.get_by_label("Choose slow").all():
        box.check()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    expect(tiles).to_have_count(1)


def test_a_video_that_could_not_be_read_is_read_when_the_service_is_back(
    page: Page, finished: Callable[..., dict[str, Any]]
) -> None:
    job = finished()
    page.route("**/video", lambda route: route.abort())
    page.goto("/jobs")
    video = page.locator(f"[data-job={job['id']}] video")
    page.wait_for_function("id => document.querySelector(`[data-job=${id}] video`)?.error", arg=job["id"])
    page.unroute("**/video")
    page.evaluate("['lost', 'back'].forEach(it => document.dispatchEvent(new CustomEvent(`connection-${it}`)))")
    expect(video).to_have_js_property("duration", 2)
