"""The HTTP client: requests with the key, and problems as one sentence with an exit code."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, TimeoutError  # noqa: A004
from urllib3.util import Retry, Timeout

from cli.failure import CommandError
from cli.place import Place
from shared.exit_codes import ExitCode

_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 60.0
_PAGE_MAX = 100

Fields = Mapping[str, str | tuple[str, bytes, str]]


class ApiError(CommandError):
    """The API answered with a problem (RFC 9457)."""

    def __init__(self, message: str, exit_code: int, *, status: int, code: str | None) -> None:
        super().__init__(message, exit_code)
        self.status = status
        #: the problem's stable code.
        self.code = code


class ConnectionFailedError(CommandError):
    """The API cannot be reached, or the connection broke."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.UNAVAILABLE)


class Client:
    """Talks to one API. Use as a context manager, to close its connections."""

    def __init__(self, place: Place) -> None:
        self._url = place.url
        self._headers = {
            "Authorization": f"Bearer {place.api_key}",
            "User-Agent": f"animatic-cli/{importlib.metadata.version('animatic')}",
        }
        # Redirects are followed here, so that the key goes to no other host.
        self._pool = urllib3.PoolManager(timeout=Timeout(connect=_CONNECT_TIMEOUT_S, read=_READ_TIMEOUT_S))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pool.clear()

    def get(self, path: str, query: Mapping[str, object] | None = None, **options: Any) -> Any:
        """GET an API path and parse the JSON answer."""
        if query:
            path = f"{path}?{urlencode({name: str(value) for name, value in query.items()})}"
        return self._json("GET", path, **options)

    def post(self, path: str, body: Any = None, *, idempotency_key: str | None = None) -> Any:
        """POST JSON. Not repeated when the connection breaks: it may have been done."""
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return self._json("POST", path, json=body, headers=headers)

    def post_form(self, path: str, fields: Fields, idempotency_key: str) -> Any:
        """POST a multipart form; repeated when the connection breaks, since the key makes that safe."""
        return self._json(
            "POST",
            path,
            fields=dict(fields),
            headers={"Idempotency-Key": idempotency_key},
            retries=Retry(connect=0, read=2, redirect=0, other=0, allowed_methods=None, backoff_factor=0.3),
        )

    def delete(self, path: str) -> None:
        self._send("DELETE", path)

    def pages(self, path: str, query: Mapping[str, object], limit: int | None) -> Iterator[dict[str, Any]]:
        """The items of a list, page after page, up to `limit` (None: all)."""
        after: dict[str, object] = {}
        while limit is None or limit > 0:
            size = _PAGE_MAX if limit is None else min(limit, _PAGE_MAX)
            page = self.get(path, {**query, **after, "limit": size})
            yield from page["data"]
            if not page["has_more"] or not page["data"]:
                return
            after = {"after": page["last_id"]}
            limit = None if limit is None else limit - len(page["data"])

    def stream(
        self, path: str, headers: Mapping[str, str] | None = None, timeout: Timeout | None = None
    ) -> urllib3.BaseHTTPResponse:
        """GET without reading the body; redirects are followed. The caller reads and closes."""
        options = {} if timeout is None else {"timeout": timeout}
        return self._send("GET", path, headers=headers, preload_content=False, **options)

    def _json(self, method: str, path: str, **options: Any) -> Any:
        response = self._send(method, path, **options)
        if not response.data:
            return None
        try:
            return json.loads(response.data)
        except ValueError:
            raise ConnectionFailedError(
                f"{self._url} does not answer like an Animatic API: it sent no JSON for {path}"
            ) from None

    def _send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        url = urljoin(f"{self._url}/", path.lstrip("/"))
        options.setdefault("retries", Retry(connect=0, read=0, redirect=0, other=0))
        sent = {**self._headers, **(headers or {})}
        for _ in range(5):
            try:
                response = self._pool.request(method, url, headers=sent, redirect=False, **options)
            except (HTTPError, OSError) as error:
                raise ConnectionFailedError(_explain(self._url, error)) from None
            location = response.headers.get("Location")
            if method != "GET" or location is None or not 300 <= response.status < 400:
                break
            response.drain_conn()
            target = urljoin(url, location)
            if urlsplit(target)[:2] != urlsplit(url)[:2]:
                # A signed URL on another host carries its own right; our key is none of that host's business.
                sent.pop("Authorization", None)
            url = target
        if response.status >= 300:
            raise _problem(url, response)
        return response


def path_to(*parts: str) -> str:
    """An API path; each part is escaped, since ids come from the command line."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _explain(url: str, error: Exception) -> str:
    reason = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
    if isinstance(reason, NewConnectionError):
        return f"cannot reach {url} ({_os_reason(reason)}); is the service running?"
    if isinstance(reason, TimeoutError):
        return f"{url} does not answer in time"
    return f"the connection to {url} broke ({_os_reason(reason)})"


def _os_reason(error: BaseException) -> str:
    # urllib3 nests the operating system's error, whose text is the readable one.
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error).rpartition(": ")[2]


def _problem(url: str, response: urllib3.BaseHTTPResponse) -> ApiError:
    try:
        body = json.loads(response.data)
    except (ValueError, HTTPError):
        body = None
    problem: dict[str, Any] = body if isinstance(body, dict) else {}
    status = response.status
    message = problem.get("detail") or problem.get("title") or f"{url} answered {status} {response.reason or ''}"
    for item in problem.get("errors") or []:
        if item.get("message") and item["message"] not in message:
            message += f"; {item['message']}"
    if status in (401, 403):
        exit_code = ExitCode.UNAUTHORIZED
    else:
        exit_code = ExitCode.UNAVAILABLE if status >= 500 else ExitCode.USAGE
    return ApiError(str(message).strip(), exit_code, status=status, code=problem.get("code"))
