"""The page that signs in."""

from __future__ import annotations

from playwright.sync_api import Page
from support import Service


def test_signing_in_leads_to_no_other_site(site: Service, page: Page) -> None:
    for path in ("//other.example/", "/.//other.example/", "/%5C/other.example/", "https://other.example/"):
        page.goto(f"/sign-in?next={path}")
        page.wait_for_url(lambda url: "/sign-in" not in url)
        assert page.url.startswith(f"{site.url}/"), path
