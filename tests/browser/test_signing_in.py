"""Signing in and out in a browser, and what other sites can do with its cookie."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect
from support import BOOTSTRAP_KEY, Service


def test_a_key_signs_in_and_back_to_where_one_wanted_to_be(
    site: Service, new_context: Callable[..., BrowserContext], look: Callable[..., None]
) -> None:
    page = new_context().new_page()
    page.goto("/jobs?x=1")
    expect(page).to_have_url(f"{site.url}/sign-in?next=/jobs%3Fx%3D1")
    page.get_by_label("API key").fill("ak_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#key-error")).to_have_text("this API key is unknown, expired or revoked")
    look(page, "sign-in", views=("narrow-light", "wide-dark"))
    page.get_by_label("API key").fill(BOOTSTRAP_KEY)
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site.url}/jobs?x=1")
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{site.url}/sign-in")
    page.goto("/")
    expect(page).to_have_url(f"{site.url}/sign-in?next=/")


@pytest.fixture
def link_of_up() -> Iterator[str]:
    """What a real `animatic up` prints to sign in with."""
    folder = Path(tempfile.mkdtemp(prefix="up-"))
    folder.chmod(0o711)  # Postgres runs as another user when we are root
    argv = ["up", "--port", "0", "--data-dir", str(folder / "data"), "--model", "double"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANIMATIC_")}
    up = subprocess.Popen(
        [sys.executable, "-m", "cli", *argv], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=clean
    )
    try:
        assert up.stdout is not None
        found = next((link for line in up.stdout if (link := re.search(r"page +(\S+)", line))), None)
        assert found is not None, "animatic up has ended"
        yield found[1]
    finally:
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=60)
        shutil.rmtree(folder)


def test_the_link_that_up_prints_signs_in_once_and_says_so_afterwards(
    link_of_up: str, new_context: Callable[..., BrowserContext]
) -> None:
    home = link_of_up.partition("sign-in#")[0]
    page = new_context().new_page()
    page.goto(link_of_up)
    expect(page).to_have_url(home)
    expect(page.locator("#model-help")).to_contain_text("1 worker ready")
    page.get_by_role("button", name="Sign out").click()
    # Given to the page that is open: no new page is loaded for it.
    expect(page.get_by_label("API key")).to_be_focused()
    page.goto(link_of_up)
    expect(page.locator("#key-error")).to_have_text("this link has been used or is too old; sign in with your API key")
    expect(page).to_have_url(f"{home}sign-in")


def test_a_page_on_another_port_changes_nothing_and_reads_nothing(site: Service, context: BrowserContext) -> None:
    other = "http://127.0.0.1:1/"
    page = context.new_page()
    page.route(f"{other}**", lambda route: route.fulfill(body="<title>other</title>", content_type="text/html"))
    page.goto(other)
    keys = len(site.request("GET", "/v1/keys").json()["data"])
    attack = """async url => {
      const options = { method: "POST", credentials: "include", mode: "no-cors", body: '{"name": "stolen"}' };
      await fetch(`${url}/v1/keys`, options).catch(() => {});
      await fetch(`${url}/session`, { ...options, body: '{"key": "x"}' }).catch(() => {});
      return fetch(`${url}/v1/jobs`, { credentials: "include" }).then(() => "read", () => "refused");
    }"""
    assert page.evaluate(attack, site.url) == "refused"
    # Nor does one of this very site that lacks the session's token.
    page.goto("/")
    forged = (
        """() => fetch("/v1/keys", { method: "POST", body: '{"name": "stolen"}' }).then((answer) => answer.json())"""
    )
    assert page.evaluate(forged)["code"] == "csrf_refused"
    assert len(site.request("GET", "/v1/keys").json()["data"]) == keys


def test_a_session_ends_with_its_key(site: Service, new_context: Callable[..., BrowserContext]) -> None:
    made = site.request("POST", "/v1/keys", json={"name": "laptop"}).json()
    page = new_context(made["key"]).new_page()
    page.goto("/jobs")
    expect(page.locator("#queue")).to_contain_text("double")
    site.request("DELETE", f"/v1/keys/{made['id']}")
    expect(page.get_by_role("alert").filter(has_text="Your sign-in has ended")).to_be_visible()
