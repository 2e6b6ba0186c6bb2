"""Signing in and out in a browser, and what other sites can do with its cookie."""

from __future__ import annotations

from collections.abc import Callable

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


def test_a_link_signs_in_once(site: Service, new_context: Callable[..., BrowserContext]) -> None:
    url = site.request("POST", "/v1/sign-in-links").json()["url"]
    page = new_context().new_page()
    page.goto(url)
    expect(page).to_have_url(f"{site.url}/")
    page = new_context().new_page()
    page.goto(url)
    expect(page.locator("#key-error")).to_contain_text("has been used or is too old")
    assert "#" not in page.url


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
    assert len(site.request("GET", "/v1/keys").json()["data"]) == keys


def test_a_session_ends_with_its_key(site: Service, new_context: Callable[..., BrowserContext]) -> None:
    made = site.request("POST", "/v1/keys", json={"name": "laptop"}).json()
    page = new_context(made["key"]).new_page()
    page.goto("/jobs")
    expect(page.locator("#queue")).to_contain_text("double")
    site.request("DELETE", f"/v1/keys/{made['id']}")
    expect(page.get_by_role("alert").filter(has_text="Your sign-in has ended")).to_be_visible()
