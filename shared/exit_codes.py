"""Exit codes of the commands. 64 to 78 follow BSD's sysexits(3)."""

from enum import IntEnum


class ExitCode(IntEnum):
    #: all went well.
    OK = 0
    #: the job ended as failed or canceled, or the demo's video is not what was promised.
    JOB_FAILED = 1
    #: the command line is wrong, or the API refused the request (4xx).
    USAGE = 2
    #: the API cannot be reached, or answered 5xx.
    UNAVAILABLE = 3
    #: the API key is missing or was refused.
    UNAUTHORIZED = 4
    #: `--timeout` passed before the job ended.
    TIMED_OUT = 5
    #: the model's files are missing, truncated, or not an SVD checkpoint.
    MODEL_INVALID = 65
    #: the model's files are not here and cannot be fetched (gated, no token, no network).
    MODEL_UNAVAILABLE = 69
    #: the device that was asked for is not there, or too small for the model.
    DEVICE_UNAVAILABLE = 71
    #: a setting is unknown or invalid.
    CONFIG = 78
