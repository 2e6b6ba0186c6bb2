"""I6: a webhook verifies with the `standardwebhooks` library."""

from __future__ import annotations

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from shared.settings import Settings
from shared.webhooks import RETRY_AFTER_MAX_S, delivery_headers, new_secret, retry_delay_s, sign

SCHEDULE_S = Settings().webhook_schedule_s

secrets = st.binary(min_size=24, max_size=64).map(lambda key: f"whsec_{base64.b64encode(key).decode()}")
message_ids = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=1)
bodies = st.dictionaries(st.text(), st.text() | st.integers() | st.none()).map(lambda value: json.dumps(value).encode())


def test_the_specifications_own_example_has_its_signature() -> None:
    signature = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1_614_265_330,
        b'{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(secrets, message_ids, bodies)
def test_every_message_verifies_with_the_library(secret: str, message_id: str, body: bytes) -> None:
    headers = delivery_headers([secret], message_id, int(time.time()), body)
    assert Webhook(secret).verify(body, headers) == json.loads(body)


@given(secrets, bodies, st.data())
def test_a_changed_body_id_or_time_does_not_verify(secret: str, body: bytes, data: st.DataObject) -> None:
    headers = delivery_headers([secret], "evt_1", int(time.time()), body)
    changed = data.draw(
        st.sampled_from(
            [
                (body + b" ", headers),
                (body, {**headers, "webhook-id": "evt_2"}),
                (body, {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) - 1)}),
            ]
        )
    )
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(*changed)


def test_while_a_secret_rotates_the_old_and_the_new_one_both_verify() -> None:
    old, new, other = new_secret(), new_secret(), new_secret()
    headers = delivery_headers([new, old], "evt_1", int(time.time()), b"{}")
    assert len(headers["webhook-signature"].split(" ")) == 2
    assert Webhook(old).verify(b"{}", headers) == {}
    assert Webhook(new).verify(b"{}", headers) == {}
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(b"{}", headers)


def test_a_later_try_has_a_fresh_time_and_the_same_id() -> None:
    secret = new_secret()
    first, second = (delivery_headers([secret], "evt_1", at, b"{}") for at in (1_700_000_000, 1_700_000_005))
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-timestamp"] != second["webhook-timestamp"]
    assert first["webhook-signature"] != second["webhook-signature"]


def test_new_secrets_differ_and_have_a_legal_length() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(len(base64.b64decode(secret.removeprefix("whsec_"))) == 32 for secret in made)


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        ("", "begin with whsec_"),
        (base64.b64encode(b"k" * 32).decode(), "begin with whsec_"),
        ("whsec_not base64", "base64"),
        ("whsec_ä", "base64"),
        ("whsec_", "24 to 64 bytes, got 0"),
        ("whsec_" + base64.b64encode(b"k" * 23).decode(), "24 to 64 bytes, got 23"),
        ("whsec_" + base64.b64encode(b"k" * 65).decode(), "24 to 64 bytes, got 65"),
    ],
)
def test_a_secret_outside_the_specification_is_refused_and_not_repeated(secret: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refusal:
        sign(secret, "evt_1", 0, b"")
    assert secret in ("", "whsec_") or secret not in str(refusal.value)


def test_nothing_goes_out_unsigned() -> None:
    with pytest.raises(ValueError, match="at least one secret"):
        delivery_headers([], "evt_1", 0, b"{}")


def test_the_tries_follow_the_schedule_and_then_end() -> None:
    pauses = [retry_delay_s(SCHEDULE_S, tries_made, jitter=lambda: 0.5) for tries_made in range(len(SCHEDULE_S) + 2)]
    assert pauses[-2:] == [None, None]
    assert pauses[:-2] == pytest.approx(SCHEDULE_S)


def test_the_first_try_comes_at_once() -> None:
    assert retry_delay_s(SCHEDULE_S, 0) == 0


@given(st.integers(1, len(SCHEDULE_S) - 1), st.floats(0, 1, exclude_max=True))
def test_a_pause_varies_by_between_ten_and_twenty_percent(tries_made: int, drawn: float) -> None:
    pause = retry_delay_s(SCHEDULE_S, tries_made, jitter=lambda: drawn)
    assert pause == pytest.approx(SCHEDULE_S[tries_made], rel=0.2)


def test_a_pause_uses_the_whole_width_of_its_jitter() -> None:
    assert retry_delay_s([100], 0, jitter=lambda: 0.0) == pytest.approx(85)
    assert retry_delay_s([100], 0, jitter=lambda: 1.0) == pytest.approx(115)


@given(st.integers(0, len(SCHEDULE_S) - 1), st.floats(0, allow_nan=False))
def test_retry_after_is_the_least_pause_up_to_a_day(tries_made: int, retry_after_s: float) -> None:
    pause = retry_delay_s(SCHEDULE_S, tries_made, retry_after_s)
    assert pause is not None
    assert pause >= min(retry_after_s, RETRY_AFTER_MAX_S)
    assert pause <= max(RETRY_AFTER_MAX_S, SCHEDULE_S[tries_made] * 1.2)


def test_retry_after_does_not_prolong_an_exhausted_schedule() -> None:
    assert retry_delay_s(SCHEDULE_S, len(SCHEDULE_S), 60) is None
