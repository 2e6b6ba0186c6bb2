"""An experiment of twenty videos: side by side, in step, sorted, filtered, drawn and saved."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect
from support import Service

PHOTOS = Path(__file__).parents[2] / "training" / "photos"
NAMES = ("astronaut", "coffee", "china", "flower")
TIMES = "() => [...document.querySelectorAll('.cell video')].map(video => video.currentTime)"
#: of a frame at 7 per second.
FRAME_S = 1 / 7


def times(page: Page) -> list[float]:
    found: list[float] = page.evaluate(TIMES)
    return found


def test_twenty_videos_of_a_sweep_play_in_step_and_are_compared(
    site: Service, page: Page, look: Callable[..., None], tmp_path: Path
) -> None:
    page.goto("/?sweep=1")
    page.locator("#pick").set_input_files([PHOTOS / f"{name}.jpg" for name in NAMES])
    page.get_by_text("Quality", exact=True).click()
    page.get_by_label("Inference steps").fill("2")
    page.get_by_label("Values").fill("0..200 / 5")
    expect(page.locator("#sweep-count")).to_have_text("4 images × 5 values = 20 videos")
    page.get_by_role("button", name="Start sweep").click()
    page.wait_for_url("**/experiments/exp_*")
    # Cells fill in as they come; held back and let go on.
    expect(page.locator(".cell")).to_have_count(20)
    page.get_by_role("button", name="Pause", exact=True).first.click()
    expect(page.locator("#status")).to_contain_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#status")).to_contain_text("20 of 20 videos", timeout=90_000)
    expect(page.locator(".cell video[src]")).to_have_count(20)

    page.wait_for_function("() => [...document.querySelectorAll('.cell video')].every(video => video.readyState === 4)")
    page.wait_for_timeout(700)
    apart = []
    for _ in range(4):
        page.wait_for_timeout(200)
        now = sorted(times(page))
        # At the loop's end some are at the last frame and some at the first: not then.
        if now[-1] < 1.9 and now[0] > 0.05:
            apart.append(now[-1] - now[0])
    assert apart, "the videos do not play"
    assert min(apart) < FRAME_S, f"seconds between the first and the last video: {apart}"

    # Whoever scrubs one scrubs all.
    page.get_by_label("Place in all videos").fill("0.5")
    expect(page.locator("#frame")).to_have_text("Frame 8 of 14")
    assert {round(time, 2) for time in times(page)} == {1.0}
    cell = page.locator(".cell").nth(7)
    box = cell.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 5, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    page.mouse.up()
    assert {round(time, 1) for time in times(page)} == {1.5}
    expect(page.locator("#detail")).to_contain_text("coffee.jpg, motion_bucket_id 100")
    expect(page.locator("#detail")).to_contain_text("Motion, px per frame")
    look(page, "experiment")

    # By keyboard: to the neighbour, a frame on, a favourite.
    cell.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".cell").nth(8)).to_be_focused()
    page.keyboard.press("f")
    page.get_by_label("Only favourites").check()
    expect(page.locator("#shown")).to_have_text("1 of 20 cells")
    expect(page.locator(".cell:not(.out)")).to_have_count(1)
    page.get_by_label("Only favourites").uncheck()

    # The double pans further the larger its motion bucket.
    page.get_by_label("Order").select_option(label="Motion, most first")
    expect(page.locator(".sorted li").first).to_contain_text("motion_bucket_id 200")
    page.get_by_label("At least").fill("0.5")
    expect(page.locator("#shown")).not_to_have_text("20 cells")
    page.get_by_label("At least").fill("")
    page.get_by_label("Order").select_option("")
    expect(page.locator("#charts svg")).not_to_have_count(0)

    with page.expect_download() as download:
        page.get_by_role("button", name="Export CSV").click()
    rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
    assert len(rows) == 20
    assert rows[8]["favourite"] == "true"
    assert rows[7]["image"] == "coffee.jpg"
    assert float(rows[4]["flow_px"]) > float(rows[1]["flow_px"])
    with page.expect_download() as download:
        page.get_by_role("button", name="Contact sheet").click()
    download.value.save_as(tmp_path / "sheet.png")
    sheet = Image.open(tmp_path / "sheet.png").convert("RGB")
    assert sheet.width > 5 * 256
    assert len(sheet.getcolors(2**24) or ()) > 1000

    # The largest grid there may be is refused, and a wide one made to fit; names are no formulas.
    sheet = (
        "async (columns) => (await import('/static/contact_sheet.js')).drawSheet("
        "{ rows: ['a'], columns: Array(columns).fill('b'), videos: new Map() })"
    )
    assert page.evaluate(f"({sheet})(200).then(({{ size }}) => size)") > 1000
    assert "too many for one sheet" in page.evaluate(f"({sheet})(10_000).catch(({{ message }}) => message)")
    table = (
        "async (name) => (await import('/static/export.js')).asCsv("
        "{ grid: {}, images: [{ name }] }, [{ image_index: 0 }], new Set())"
    )
    for name in ("=1+1", "+1", "-1", "@a", "\t=1", "\r=1"):
        assert f"'{name}" in page.evaluate(table, name)

    # Where they stand among other jobs, each is told apart and leads back here.
    experiment = page.url
    page.goto("/jobs")
    tile = page.locator(".tile").filter(has_text=re.compile("coffee.jpg.*motion_bucket_id 100"))
    expect(tile).to_have_count(1)
    back = tile.get_by_role("link", name="Experiment of coffee.jpg · motion_bucket_id 100")
    expect(back).to_have_attribute("href", experiment.removeprefix(site.url))
    look(page, "jobs-of-an-experiment", views=("narrow-light", "wide-light"))
    tile.get_by_role("link", name="coffee.jpg motion_bucket_id 100", exact=True).click()
    expect(page.get_by_role("heading", name="coffee.jpg motion_bucket_id 100")).to_be_visible()
    expect(page.get_by_role("link", name="Experiment of")).not_to_have_count(0)

    # Of hundreds of values the list names a few.
    many = "import('/static/dom.js').then(({ few }) => few([...Array(500).keys()]))"
    assert page.evaluate(many) == "0, 1, 2, 3, 4, 5, … (500)"
    page.goto("/experiments")
    expect(page.get_by_role("listitem").filter(has_text="20 of 20 videos")).to_be_visible()
    look(page, "experiments", views=("narrow-dark", "wide-light"))


def test_an_experiment_is_canceled_its_failed_cells_are_tried_again_and_it_is_deleted(
    site: Service, page: Page, rocket: bytes
) -> None:
    store = Path(site.settings.object_store)
    lost, kept = (site.request("POST", "/v1/inputs", fields={"image": (name, rocket)}).json() for name in ("a", "b"))
    [image] = store.glob(f"inputs/**/*{lost['id'].removeprefix('inp_')}*")
    image.rename(store / "elsewhere")
    request = {
        "name": "steered",
        "model": "double",
        "images": [{"input_id": lost["id"], "name": "n" * 100}, {"input_id": kept["id"]}],
        "grid": {"motion_bucket_id": [60, 120]},
        "base": {"num_inference_steps": 40},
    }
    made = site.request("POST", "/v1/experiments", json=request).json()
    url = f"/experiments/{made['id']}"
    page.goto(url)
    status = page.locator("#status")
    expect(status).to_contain_text("2 failed")
    expect(page.get_by_role("button", name="Delete")).to_be_hidden()
    page.get_by_role("button", name="Cancel").click()
    expect(status).to_contain_text("finished")
    expect(status).to_contain_text("canceled")
    cell = page.locator(".cell").first
    expect(cell).to_have_attribute("data-status", "failed")
    expect(cell).to_contain_text("image")

    image = (store / "elsewhere").rename(image)
    page.get_by_role("button", name="Try failed again").click()
    expect(cell.locator("video")).to_be_visible()
    cell.focus()
    expect(page.locator("#detail")).to_contain_text("try 2")
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    expect(status).to_contain_text("finished")

    delete = page.get_by_role("button", name="Delete")
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    delete.press("Enter")
    assert asked == ["Delete this experiment, and every video that it made?"]
    expect(status).to_contain_text("finished")
    page.once("dialog", lambda dialog: dialog.accept())
    delete.press("Enter")
    page.wait_for_url("**/experiments")
    expect(page.locator("#experiments li")).not_to_have_text(["Loading…"])
    expect(page.get_by_role("link", name="steered")).to_have_count(0)
    page.goto(url)
    expect(page.get_by_role("heading", name="There is no such experiment")).to_be_visible()


def test_an_experiment_that_is_not_there_is_said_so(page: Page) -> None:
    page.goto("/experiments/exp_" + "0" * 32)
    expect(page.get_by_role("heading", name="There is no such experiment")).to_be_visible()
    expect(page.get_by_role("link", name="All experiments")).to_be_visible()


def test_a_sweep_of_values_that_are_not_allowed_is_refused_in_the_apis_own_words(page: Page) -> None:
    page.goto("/?sweep=1")
    expect(page.locator("#motion_bucket_id")).to_have_value("127")
    page.locator("#pick").set_input_files(PHOTOS / "flower.jpg")
    page.get_by_label("Values").fill("100, 600")
    page.get_by_role("button", name="Start sweep").click()
    expect(page.locator("#sweep-error")).to_contain_text("511")
