"""The pictures of the page in README and docs: `make page-pictures`, while `animatic up` runs on this machine.

Makes a video and a small sweep as a person would, with the page, and saves what the browser shows. So the videos are
those of the service's own model. The jobs stay.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from chromium import find_chromium
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from cli.place import default_data_dir, find_place

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "images"
PHOTOS = [
    ROOT / "docs" / "samples" / "rocket.jpg",
    ROOT / "docs" / "samples" / "chelsea.png",
    ROOT / "training" / "photos" / "coffee.jpg",
]
MOST_BYTES = 150_000
#: a browser hides a video's controls when nobody has moved for a while.
CONTROLS_HIDE_MS = 4000


def save(page: Page, name: str, *, width: int = 1280, height: int, theme: str = "light") -> None:
    """Take the window's picture, as good as fits into `MOST_BYTES`."""
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate("theme => { document.documentElement.dataset.theme = theme; scrollTo(0, 0) }", theme)
    page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(page.screenshot()))
    for quality in range(85, 20, -5):
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=quality, method=6)
        if file.tell() <= MOST_BYTES:
            break
    (PICTURES / f"{name}.webp").write_bytes(file.getvalue())
    print(f"{name}.webp: {file.tell():,} bytes, quality {quality}")


def make_video(page: Page, photo: Path, limit_s: float) -> None:
    page.goto("/")
    page.locator("#pick").set_input_files(photo)
    page.get_by_role("button", name="Make video").click()
    expect(page.locator("#stage h3")).to_have_text(photo.name)
    expect(page.locator("#stage-status")).to_contain_text("succeeded", timeout=limit_s * 1000)
    page.mouse.move(1, 1)
    page.wait_for_timeout(CONTROLS_HIDE_MS)


def start_sweep(page: Page, photos: list[Path], values: str) -> None:
    page.goto("/?sweep=1")
    page.locator("#pick").set_input_files(photos)
    page.get_by_label("Values").fill(values)
    page.get_by_label("Name").fill("How much motion?")
    page.get_by_role("button", name="Start sweep").click()
    page.wait_for_url("**/experiments/exp_*")


def show_sweep(page: Page) -> None:
    """All videos at their last frame, which shows best how far each got, and what is known of one of them."""
    page.wait_for_function(
        "() => [...document.querySelectorAll('.cell video')].every((video) => video.readyState === 4)"
    )
    page.get_by_label("Place in all videos").fill("0.97")
    page.get_by_label("Place in all videos").blur()
    page.locator(".cell").nth(1).hover()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=default_data_dir(), help="of `animatic up`")
    parser.add_argument("--values", default="20, 90, 160, 230", help="of motion_bucket_id, in the sweep")
    parser.add_argument("--limit-s", type=float, default=1800, help="for the slowest step")
    options = parser.parse_args()
    place = find_place(None, options.data_dir)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        context = browser.new_context(base_url=place.url, reduced_motion="no-preference")
        signed_in = context.request.post("/session", data={"key": place.api_key})
        assert signed_in.ok, signed_in.text()
        page = context.new_page()
        make_video(page, PHOTOS[0], options.limit_s)
        save(page, "studio", height=800)
        start_sweep(page, PHOTOS, options.values)
        experiment = page.url
        # The gallery while there is a queue.
        expect(page.locator(".cell video").nth(len(PHOTOS))).to_be_attached(timeout=options.limit_s * 1000)
        page.goto("/jobs")
        expect(page.locator(".tile video").first).to_be_visible()
        page.wait_for_timeout(3000)
        save(page, "jobs", height=800, theme="dark")
        page.goto(experiment)
        expect(page.locator("#status")).to_contain_text("finished", timeout=options.limit_s * 1000)
        show_sweep(page)
        save(page, "experiment", width=1440, height=1230)
        save(page, "experiment-narrow", width=360, height=740, theme="dark")
        page.goto("/jobs")
        page.locator(".tile a[title]").last.click()
        expect(page.locator("#manifest")).to_be_visible()
        page.mouse.move(1, 1)
        page.wait_for_timeout(CONTROLS_HIDE_MS)
        save(page, "job", height=900)
        browser.close()


if __name__ == "__main__":
    main()
