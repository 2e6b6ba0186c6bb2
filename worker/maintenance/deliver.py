"""Deliver: send webhooks that are due, and note what became of each try."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from uuid import UUID

from sqlalchemy import Float, case, cast, func, select, update

from shared.database import Sessions, db_now, translated_errors
from shared.errors import DatabaseError, DeliveryError
from shared.ids import show_id
from shared.outbound import OutboundGuard
from shared.settings import Settings
from shared.states import DeliveryStatus
from shared.tables import Tenant, WebhookDelivery
from shared.webhooks import delivery_headers, retry_delay_s

_AT_ONCE = 32
_AT_ONCE_PER_HOST = 4
#: a tenant may name as many hosts as it likes, and all of them slow.
_AT_ONCE_PER_TENANT = 24
#: rows of one round: more than are started, since some may be for the same host.
_LOOK_AT = 200

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Try:
    """One try, fenced by its number."""

    delivery_id: UUID
    number: int
    url: str
    host: str
    tenant_id: UUID
    body: bytes
    #: the present one, and while it is being rotated the one before.
    secrets: tuple[str, ...]
    #: Unix time by the database's clock.
    timestamp: int


class Deliverer:
    """Sends what is due, several at once, but only so many to one host and of one tenant: slow receivers delay nobody
    else's.
    """

    def __init__(self, sessions: Sessions, settings: Settings, outbound: OutboundGuard) -> None:
        self._sessions = sessions
        self._settings = settings
        self._outbound = outbound
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="deliver")
        self._hosts: Counter[str] = Counter()
        self._tenants: Counter[UUID] = Counter()
        self._lock = threading.Lock()

    def deliver_due(self) -> list[Future[None]]:
        """Start the tries that are due and fit now.

        Raises:
            DatabaseError: Postgres is not answering; what was sent is sent again when its claim runs out.
        """
        return [self._pool.submit(self._run, due) for due in self._claim_due()]

    def close(self) -> None:
        """Wait for the tries that are under way: each is over within the webhook's time-out."""
        self._pool.shutdown()

    def _claim_due(self) -> list[_Try]:
        with self._lock:
            hosts, tenants = self._hosts.copy(), self._tenants.copy()
        free = _AT_ONCE - hosts.total()
        if free <= 0:
            return []
        busy_hosts = [host for host, count in hosts.items() if count >= _AT_ONCE_PER_HOST]
        busy_tenants = [tenant_id for tenant_id, count in tenants.items() if count >= _AT_ONCE_PER_TENANT]
        # If this process dies, the try counts and the next one comes when this claim runs out.
        claim_s = 2 * self._settings.webhook_timeout_s + 10
        with translated_errors(), self._sessions.begin() as session:
            due = session.execute(
                select(WebhookDelivery.id, WebhookDelivery.host, WebhookDelivery.tenant_id)
                .where(
                    WebhookDelivery.status == DeliveryStatus.PENDING,
                    WebhookDelivery.next_try_at <= db_now(),
                    WebhookDelivery.host.not_in(busy_hosts),
                    WebhookDelivery.tenant_id.not_in(busy_tenants),
                )
                .order_by(WebhookDelivery.next_try_at)
                .limit(_LOOK_AT)
                .with_for_update(skip_locked=True)
            ).all()
            chosen: list[UUID] = []
            for delivery_id, host, tenant_id in due:
                has_room = hosts[host] < _AT_ONCE_PER_HOST and tenants[tenant_id] < _AT_ONCE_PER_TENANT
                if len(chosen) < free and has_room:
                    hosts[host] += 1
                    tenants[tenant_id] += 1
                    chosen.append(delivery_id)
            rows = session.execute(
                update(WebhookDelivery)
                .where(WebhookDelivery.id.in_(chosen), Tenant.id == WebhookDelivery.tenant_id)
                .values(tries=WebhookDelivery.tries + 1, next_try_at=db_now() + timedelta(seconds=claim_s))
                .returning(
                    WebhookDelivery.id,
                    WebhookDelivery.tries,
                    WebhookDelivery.url,
                    WebhookDelivery.host,
                    WebhookDelivery.tenant_id,
                    WebhookDelivery.body,
                    Tenant.webhook_secret,
                    case((Tenant.previous_webhook_secret_until > db_now(), Tenant.previous_webhook_secret)),
                    cast(func.extract("epoch", func.clock_timestamp()), Float),
                )
                .execution_options(synchronize_session=False)
            ).all()
        tries = [
            _Try(row[0], row[1], row[2], row[3], row[4], row[5], tuple(filter(None, row[6:8])), int(row[8]))
            for row in rows
        ]
        with self._lock:
            self._hosts.update(due.host for due in tries)
            self._tenants.update(due.tenant_id for due in tries)
        return tries

    def _run(self, attempt: _Try) -> None:
        try:
            self._send(attempt)
        except Exception:  # the outermost boundary of a try; its claim runs out, and it is sent again
            log.exception("a try of %s failed", attempt.delivery_id)
        finally:
            with self._lock:
                self._hosts[attempt.host] -= 1
                self._tenants[attempt.tenant_id] -= 1
                # Forget those at zero.
                self._hosts += Counter()
                self._tenants += Counter()

    def _send(self, attempt: _Try) -> None:
        message_id = show_id("evt", attempt.delivery_id)
        headers = delivery_headers(attempt.secrets, message_id, attempt.timestamp, attempt.body)
        status_code: int | None = None
        retry_after_s: float | None = None
        problem: str | None
        try:
            answer = self._outbound.post(
                attempt.url, body=attempt.body, headers=headers, timeout_s=self._settings.webhook_timeout_s
            )
        except DeliveryError as error:
            outcome, problem = (DeliveryStatus.DISABLED if error.permanent else None), str(error)
        else:
            status_code, retry_after_s = answer.status, answer.retry_after_s
            problem = None if answer.is_success else f"the receiver answered {answer.status}"
            outcome = _outcome(answer.status, is_success=answer.is_success)
        log.info("%s try %d: %s", message_id, attempt.number, problem or "delivered")
        try:
            self._record(attempt, outcome, status_code, problem, retry_after_s)
        except DatabaseError as error:
            log.warning("cannot record a try of %s, so it will be sent again: %s", message_id, error)

    def _record(
        self,
        attempt: _Try,
        outcome: DeliveryStatus | None,
        status_code: int | None,
        problem: str | None,
        retry_after_s: float | None,
    ) -> None:
        values: dict[str, object] = {"last_status_code": status_code, "last_error": problem}
        if outcome is None:
            pause_s = retry_delay_s(self._settings.webhook_schedule_s, attempt.number, retry_after_s)
            if pause_s is None:
                outcome = DeliveryStatus.EXHAUSTED
            else:
                values["next_try_at"] = db_now() + timedelta(seconds=pause_s)
        if outcome is not None:
            values |= {"status": outcome, "ended_at": db_now()}
        with translated_errors(), self._sessions.begin() as session:
            session.execute(
                update(WebhookDelivery)
                .where(
                    WebhookDelivery.id == attempt.delivery_id,
                    WebhookDelivery.status == DeliveryStatus.PENDING,
                    WebhookDelivery.tries == attempt.number,
                )
                .values(**values)
                .execution_options(synchronize_session=False)
            )


def _outcome(status: int, *, is_success: bool) -> DeliveryStatus | None:
    """What an answer means for good; None: try again."""
    if is_success:
        return DeliveryStatus.DELIVERED
    # Source: Standard Webhooks, "Deliverability and reliability": 410 means never again.
    return DeliveryStatus.DISABLED if status == HTTPStatus.GONE else None
