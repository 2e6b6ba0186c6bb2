"""One service and one Chromium for all tests of the page; a fresh, signed-in browser context for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe
from chromium import find_chromium
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from support import BOOTSTRAP_KEY, Engines, Receiver, Service, webhook_receiver

from cli.engines import run_redis
from shared.ids import new_id
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
#: width, height, theme: the narrowest and the widest that the page is made for, and an ordinary one.
VIEWS = {
    "narrow-light": (360, 740, "light"),
    "narrow-dark": (360, 740, "dark"),
    "wide-light": (1440, 900, "light"),
    "wide-dark": (1440, 900, "dark"),
    "widest-light": (2560, 1300, "light"),
}

expect.set_options(timeout=15_000)


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def site(engines: Engines, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """API, maintainer, and a worker of the double."""
    name = f"browser_{new_id().hex}"
    with psycopg.connect(engines.admin_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE animatic")
    folder = tmp_path_factory.mktemp("site")
    with run_redis(folder / "redis") as redis_url:  # its own: the doorbells of other tests' jobs are not for its worker
        settings = Settings(
            database_url=engines.database_url(name),
            redis_url=redis_url,
            object_store=str(folder / "objects"),
            bootstrap_api_key=BOOTSTRAP_KEY,
            outbound_allow=("127.0.0.1",),
            outbound_ports=(int(receiver.url.rpartition(":")[2].partition("/")[0]),),
            models=("double", "tiny"),
            max_body_bytes=2_000_000,
            rate_limit_per_minute=0,
        )
        service = Service(settings, folder / "logs")
        try:
            service.start_all("double")
            yield service
        finally:
            service.stop_all()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def sign_in() -> Callable[[BrowserContext, str], None]:
    """Signs a browser in with a key, as soon as the limit of tries from one address lets it: all tests share one."""

    def sign_in(context: BrowserContext, key: str) -> None:
        while (answer := context.request.post("/session", data={"key": key})).status == 429:
            time.sleep(int(answer.headers["retry-after"]))
        assert answer.status == 204, answer.text()

    return sign_in


@pytest.fixture
def new_context(
    site: Service, browser: Browser, sign_in: Callable[[BrowserContext, str], None]
) -> Iterator[Callable[..., BrowserContext]]:
    """Makes browser contexts, signed in if given a key; no script of theirs may have failed or been blocked."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def make(key: str | None = None, **options: object) -> BrowserContext:
        context = browser.new_context(base_url=site.url, **{"reduced_motion": "no-preference", **options})
        context.on("weberror", lambda error: problems.append(str(error.error)))
        context.on(
            "console", lambda said: problems.append(said.text) if "Content Security Policy" in said.text else None
        )
        contexts.append(context)
        if key is not None:
            sign_in(context, key)
        return context

    yield make
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def context(new_context: Callable[..., BrowserContext]) -> BrowserContext:
    """A browser that is signed in."""
    return new_context(BOOTSTRAP_KEY)


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.fixture
def look() -> Callable[..., None]:
    """Takes the page's screenshots in each view, and asks axe-core about the light and the dark one."""

    def look(page: Page, name: str, *, views: tuple[str, ...] = tuple(VIEWS)) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        judged: set[str] = set()
        before = page.viewport_size
        for view in views:
            width, height, theme = VIEWS[view]
            page.set_viewport_size({"width": width, "height": height})
            page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
            overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert overflow <= 0, f"{name} is {overflow} px too wide at {width} px"
            page.screenshot(path=SCREENSHOTS / f"{name}-{view}.png", full_page=True, animations="disabled")
            if theme not in judged:
                judged.add(theme)
                results = Axe().run(page)
                assert results.violations_count == 0, f"{name}, {view}:\n{results.generate_report()}"
        if before is not None:
            page.set_viewport_size(before)

    return look
