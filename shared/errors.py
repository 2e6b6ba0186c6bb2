"""Every error that Animatic raises on purpose.

    AnimaticError
    ├─ RequestError              the caller's fault
    │  ├─ InvalidInputError          422
    │  ├─ MalformedRequestError      400
    │  ├─ UnauthorizedError          401
    │  ├─ ForbiddenError             403
    │  ├─ CsrfError                  403
    │  ├─ QuotaExceededError         403
    │  ├─ NotFoundError              404
    │  ├─ ConflictError              409
    │  ├─ GoneError                  410
    │  ├─ PayloadTooLargeError       413
    │  ├─ UnsupportedMediaTypeError  415
    │  └─ RateLimitedError           429
    ├─ GenerationError           permanent: the job fails
    │  ├─ UndecodableImageError
    │  ├─ InvalidOutputError
    │  └─ DeadlineExceededError
    ├─ TransientError            retryable: the job goes back to the queue, the caller tries again
    │  ├─ StorageError
    │  ├─ QueueError
    │  ├─ DatabaseError
    │  ├─ DecoderBusyError
    │  ├─ OutOfMemoryError
    │  ├─ DeviceLostError
    │  └─ EncodingError
    ├─ DeliveryError             a webhook's; never changes the job
    └─ StartupError              a process cannot start; carries the exit code

Each class has a stable `code`. HTTP statuses live in `api/problems.py`, retry decisions in `worker/settle.py`.
"""

from __future__ import annotations

from typing import ClassVar


class AnimaticError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "error"
    #: whether the same attempt may succeed later, unchanged.
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or self.code).strip().splitlines()[0])
        self.field = field


class RequestError(AnimaticError):
    """The request cannot be served as it is."""

    code = "invalid_request"


class InvalidInputError(RequestError):
    """A value is outside what is allowed."""

    code = "invalid_input"


class MalformedRequestError(RequestError):
    """The body cannot be parsed."""

    code = "malformed_request"


class UnauthorizedError(RequestError):
    """The API key is missing, unknown, expired or revoked."""

    code = "unauthorized"


class ForbiddenError(RequestError):
    """The API key lacks the scope that this needs."""

    code = "forbidden"


class CsrfError(RequestError):
    """A signed-in browser's request does not come from the service's own page."""

    code = "csrf_refused"


class QuotaExceededError(RequestError):
    """The tenant's storage quota is used up."""

    code = "quota_exceeded"


class NotFoundError(RequestError):
    """There is no such thing."""

    code = "not_found"


class ConflictError(RequestError):
    """The request does not fit the present state."""

    code = "conflict"


class GoneError(RequestError):
    """It was there, and is no longer kept."""

    code = "gone"


class PayloadTooLargeError(RequestError):
    """The body is larger than allowed."""

    code = "payload_too_large"


class UnsupportedMediaTypeError(RequestError):
    """The Content-Type is not one that this route reads."""

    code = "unsupported_media_type"


class RateLimitedError(RequestError):
    """Too many at once; try again later."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after_s: int = 2) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class GenerationError(AnimaticError):
    """The video cannot be made from this input."""

    code = "generation_failed"


class UndecodableImageError(GenerationError):
    """The stored input cannot be read as an image."""

    code = "undecodable_image"


class InvalidOutputError(GenerationError):
    """The model's output is not a usable video."""

    code = "invalid_output"


class DeadlineExceededError(GenerationError):
    """The attempt took longer than it may."""

    code = "deadline_exceeded"


class TransientError(AnimaticError):
    """A part that is needed is not answering now."""

    code = "unavailable"
    retryable = True


class StorageError(TransientError):
    """The object store is not answering."""

    code = "storage_unavailable"


class QueueError(TransientError):
    """Redis is not answering."""

    code = "queue_unavailable"


class DatabaseError(TransientError):
    """Postgres is not answering."""

    code = "database_unavailable"


class DecoderBusyError(TransientError):
    """All image decoders are busy."""

    code = "decoder_busy"


class OutOfMemoryError(TransientError):
    """The device ran out of memory."""

    code = "out_of_memory"


class DeviceLostError(TransientError):
    """The device failed so that nothing works in this process any more."""

    code = "device_lost"


class EncodingError(TransientError):
    """The frames could not be written as video or image files (ffmpeg was killed, the disk is full)."""

    code = "encoding_failed"


class DeliveryError(AnimaticError):
    """A webhook could not be delivered."""

    code = "delivery_failed"

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        #: whether trying again is pointless, as when the outbound guard refuses the address.
        self.permanent = permanent


class StartupError(AnimaticError):
    """The process cannot start."""

    code = "startup_failed"

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
