"""Signing in to the page: what the cookie is worth, to whom, and until when."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support import BOOTSTRAP_KEY

from api.auth import create_key, ensure_tenant
from api.rate_limit import _SIGN_INS_PER_MINUTE as SIGN_INS_PER_MINUTE
from shared.database import Sessions
from shared.ids import new_id, show_id
from shared.scopes import Scope

CHANGING = {"POST", "PUT", "PATCH", "DELETE"}
CSRF = re.compile(r'<meta name="csrf-token" content="([0-9a-f]{64})">')


@pytest.fixture
def browser(client: Any) -> Any:
    """A client that sends no key by itself, as a browser, and keeps cookies."""
    del client.environ_base["HTTP_AUTHORIZATION"]
    return client


def sign_in(browser: Any, **credential: str) -> Any:
    return browser.post("/session", json=credential or {"key": BOOTSTRAP_KEY})


def csrf_of(browser: Any) -> dict[str, str]:
    [token] = CSRF.findall(browser.get("/").text)
    return {"X-CSRF-Token": token}


def test_a_key_signs_in_and_the_cookie_stands_for_it_until_signing_out(browser: Any) -> None:
    assert browser.get("/v1/jobs").status_code == 401
    assert sign_in(browser).status_code == 204
    assert browser.get("/v1/jobs").status_code == 200
    assert browser.delete("/session", headers=csrf_of(browser)).status_code == 204
    assert browser.get("/v1/jobs").status_code == 401


def test_a_cookie_that_was_kept_is_worth_nothing_after_signing_out(browser: Any) -> None:
    kept = re.search(r"animatic_session=([^;]+)", sign_in(browser).headers["Set-Cookie"])
    assert kept is not None
    browser.delete("/session", headers=csrf_of(browser))
    browser.set_cookie("animatic_session", kept[1])
    assert browser.get("/v1/jobs").status_code == 401


def test_signing_in_again_ends_the_session_before(browser: Any) -> None:
    earlier = re.search(r"animatic_session=([^;]+)", sign_in(browser).headers["Set-Cookie"])
    assert earlier is not None
    assert sign_in(browser).status_code == 204
    assert browser.get("/v1/jobs").status_code == 200
    browser.set_cookie("animatic_session", earlier[1])
    assert browser.get("/v1/jobs").status_code == 401


@pytest.mark.parametrize(
    ("public_url", "begins"), [("http://a.test", "animatic_session="), ("https://a.test", "__Host-animatic_session=")]
)
def test_the_cookie_is_kept_from_scripts_and_from_other_sites(make_client: Any, public_url: str, begins: str) -> None:
    answer = sign_in(make_client(public_url=public_url))
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(begins)
    assert BOOTSTRAP_KEY not in cookie
    parts = {part.strip() for part in cookie.split(";")}
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= parts
    assert ("Secure" in parts) == public_url.startswith("https")
    assert not [part for part in parts if part.startswith("Domain")]


@pytest.mark.parametrize("credential", [{"key": "ak_" + "x" * 43}, {"link": "x" * 43}])
def test_a_wrong_key_or_link_signs_nobody_in(browser: Any, credential: dict[str, str]) -> None:
    answer = sign_in(browser, **credential)
    assert (answer.status_code, answer.json["code"]) == (401, "unauthorized")
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("body", [{}, {"key": ""}, {"key": 1}, {"key": "a", "link": "b"}, {"other": "a"}, []])
def test_a_sign_in_that_gives_nothing_usable_says_what_to_give(browser: Any, body: Any) -> None:
    answer = browser.post("/session", json=body)
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_input")


def test_a_stranger_cannot_send_more_than_a_key_is_long(browser: Any) -> None:
    answer = browser.post("/session", json={"key": "x" * 5_000})
    assert (answer.status_code, answer.json["code"]) == (413, "payload_too_large")
    assert "at most 4096 bytes" in answer.json["detail"]


def test_a_link_signs_in_once_as_the_key_that_made_it(browser: Any, sessions: Sessions) -> None:
    with sessions.begin() as session:
        _, key = create_key(session, ensure_tenant(session, "ours"), "up", scopes=[Scope.JOBS_READ, Scope.JOBS_WRITE])
    made = browser.post("/v1/sign-in-links", headers={"Authorization": f"Bearer {key}"})
    assert made.status_code == 201
    url, _, link = made.json["url"].partition("#")
    assert url == "http://127.0.0.1:8000/sign-in"
    assert sign_in(browser, link=link).status_code == 204
    assert browser.get("/v1/jobs").status_code == 200
    assert browser.get("/v1/keys").status_code == 403  # no more than the key may
    assert sign_in(browser, link=link).status_code == 401


def test_a_cookie_cannot_outlive_its_session_by_making_a_link(browser: Any) -> None:
    sign_in(browser)
    answer = browser.post("/v1/sign-in-links", headers=csrf_of(browser))
    assert (answer.status_code, answer.json["code"]) == (403, "forbidden")


def test_a_session_ends_with_its_key(browser: Any) -> None:
    admin = {"Authorization": f"Bearer {BOOTSTRAP_KEY}"}
    made = browser.post("/v1/keys", json={"name": "laptop"}, headers=admin).json
    sign_in(browser, key=made["key"])
    assert browser.get("/v1/jobs").status_code == 200
    browser.delete(f"/v1/keys/{made['id']}", headers=admin)
    assert browser.get("/v1/jobs").status_code == 401
    assert browser.get("/").headers["Location"] == "/sign-in?next=/"


def test_every_change_by_cookie_needs_the_sessions_own_token(browser: Any) -> None:
    sign_in(browser)
    token = csrf_of(browser)["X-CSRF-Token"]
    ids = {name: show_id("job", new_id()) for name in ("job_id", "input_id", "key_id", "delivery_id")}
    checked = 0
    for rule in browser.application.url_map.iter_rules():
        for method in CHANGING & (rule.methods or set()):
            if rule.rule == "/session" and method == "POST":
                continue  # nobody is signed in yet; the next test but one
            path = re.sub(r"<(?:\w+:)?(\w+)>", lambda name: ids.get(name[1], "tiny"), rule.rule)
            for headers in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "0" * 64}, {"X-CSRF-Token": token[:-1]}):
                answer = browser.open(path, method=method, headers=headers, json={})
                assert (answer.status_code, answer.json["code"]) == (403, "csrf_refused"), f"{method} {path}"
                checked += 1
    assert checked >= 40
    # Nothing has ended or changed; and with the token it goes.
    assert browser.get("/v1/jobs").status_code == 200
    assert browser.post("/v1/keys", json={"name": "laptop"}, headers={"X-CSRF-Token": token}).status_code == 201


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_the_cookie_is_worth_nothing_to_pages_of_other_sites_and_ports(browser: Any, site: str) -> None:
    sign_in(browser)
    headers = {"Sec-Fetch-Site": site, **csrf_of(browser)}
    for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/keys"), ("DELETE", "/session")):
        answer = browser.open(path, method=method, headers=headers, json={})
        assert (answer.status_code, answer.json["code"]) == (403, "csrf_refused")
    assert browser.get("/", headers=headers).status_code == 303


def test_no_other_site_can_sign_a_browser_in(browser: Any) -> None:
    body = f'{{"key": "{BOOTSTRAP_KEY}"}}'
    assert browser.post("/session", data=body, content_type="text/plain").status_code == 415
    assert (
        browser.post("/session", json={"key": BOOTSTRAP_KEY}, headers={"Sec-Fetch-Site": "cross-site"}).status_code
        == 403
    )
    assert browser.get("/v1/jobs").status_code == 401


def test_a_key_in_the_header_needs_no_token_and_goes_before_the_cookie(browser: Any) -> None:
    sign_in(browser)
    headers = {"Authorization": f"Bearer {BOOTSTRAP_KEY}"}
    assert browser.post("/v1/keys", json={"name": "laptop"}, headers=headers).status_code == 201
    assert browser.get("/v1/jobs", headers={"Authorization": "Bearer ak_wrong"}).status_code == 401


def test_an_address_may_try_to_sign_in_only_so_often(browser: Any) -> None:
    answers = [sign_in(browser, key="ak_" + "x" * 43) for _ in range(SIGN_INS_PER_MINUTE + 1)]
    assert {answer.status_code for answer in answers[:-1]} == {401}
    assert (answers[-1].status_code, answers[-1].json["code"]) == (429, "rate_limited")
    assert int(answers[-1].headers["Retry-After"]) >= 1
    elsewhere = browser.post("/session", json={"key": BOOTSTRAP_KEY}, environ_base={"REMOTE_ADDR": "192.0.2.7"})
    assert elsewhere.status_code == 204


def test_a_page_sends_those_who_are_not_signed_in_to_sign_in_and_back(browser: Any) -> None:
    answer = browser.get("/?from=job_1&sweep=1")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/sign-in?next=/%3Ffrom%3Djob_1%26sweep%3D1"


def test_a_page_allows_no_inline_script_or_style_and_is_not_kept(browser: Any) -> None:
    sign_in(browser)
    answer = browser.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "form-action 'none'"} <= set(
        policy.split("; ")
    )
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert not re.findall(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", answer.text)
    assert BOOTSTRAP_KEY not in answer.text
