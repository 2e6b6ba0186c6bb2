"""Settings: what can be set, with types, ranges, defaults and descriptions; shared/environment.py reads it."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX = "ANIMATIC_"

HostList = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """All that can be set. Immutable; made once per process and handed down."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, validate_default=False
    )

    # Where the parts are
    database_url: SecretStr = Field(
        SecretStr("postgresql://animatic@127.0.0.1:5432/animatic"),
        description="Postgres ≥ 15, as a libpq URL.",
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="Redis ≥ 6.2, the doorbell's broker."
    )
    object_store: str = Field(
        "./.animatic/objects",
        description="`s3://BUCKET[/PREFIX]`, or a directory that the API and the workers share.",
    )
    s3_endpoint_url: str | None = Field(None, description="S3 endpoint; empty for AWS.")
    s3_public_endpoint_url: str | None = Field(
        None, description="Endpoint in presigned URLs, if callers reach S3 under another name."
    )
    s3_region: str = Field("us-east-1", description="S3 region.")
    s3_access_key_id: SecretStr | None = Field(None, description="Default: boto3's own search (environment, role).")
    s3_secret_access_key: SecretStr | None = Field(None, description="Belongs to `S3_ACCESS_KEY_ID`.")
    presigned_url_ttl_s: int = Field(300, ge=10, le=3_600, description="Life of a signed download URL, s.")
    url_signing_key: SecretStr | None = Field(
        None,
        min_length=32,
        description="Signs download URLs of the local object store; the same on every API process. "
        "Default: kept in the store's own folder.",
    )

    # The API
    public_url: str = Field(
        "http://127.0.0.1:8000", description="How callers reach the API; stands in links and webhook bodies."
    )
    api_host: str = Field("127.0.0.1", description="Address that the API binds.")
    api_port: int = Field(8000, ge=0, le=65_535, description="Port that the API binds.")
    api_workers: int = Field(2, ge=1, le=64, description="gunicorn processes.")
    api_threads: int = Field(
        384,
        ge=4,
        le=1024,
        description="Threads per process, made as they are needed; all but a few may wait in streams, long polls and "
        "uploads, three quarters of these for one tenant.",
    )
    trusted_hosts: HostList = Field((), description="Host names that the API answers to, comma-separated; empty: any.")
    session_ttl_s: int = Field(
        7 * 86_400, ge=60, le=90 * 86_400, description="How long a browser stays signed in to the page, s."
    )
    bootstrap_api_key: SecretStr | None = Field(
        None,
        min_length=20,
        description="First API key of the tenant `default`; works as soon as the API runs. Best given as a file.",
    )
    max_body_bytes: int = Field(32 * 2**20, ge=2**10, description="Largest request body, bytes.")
    upload_timeout_s: float = Field(
        120, gt=0, description="Time that a request's body may take to arrive, and then an experiment's images, s."
    )
    max_image_pixels: int = Field(
        64_000_000, ge=1024, description="Largest input image, pixels; decoding takes about 10 bytes each."
    )
    max_image_side_px: int = Field(30_000, ge=32, description="Longest side of an input image, px.")
    decoder_processes: int = Field(
        2, ge=1, le=64, description="Processes per API process that decode images: as many are decoded at once."
    )
    decoder_memory_bytes: int = Field(
        3 * 2**29,
        ge=2**28,
        description="Memory (address space) of one of these, bytes; an image that takes more is refused.",
    )
    decoder_timeout_s: float = Field(
        30, gt=0, le=120, description="Time that decoding one image may take, s; one that takes longer is refused."
    )
    fetch_timeout_s: float = Field(15, gt=0, le=120, description="Total time for fetching an `image_url`, s.")
    idempotency_ttl_s: float = Field(86_400, gt=0, description="How long an Idempotency-Key is kept, s.")
    rate_limit_per_minute: int = Field(
        6_000, ge=0, description="Requests per minute of one API key; beyond it they get 429. 0: no limit."
    )
    queued_jobs_max: int = Field(
        10_000, ge=1, description="Queued jobs that a tenant may have; beyond it a request gets 429."
    )
    priority_max: int = Field(
        100, ge=0, le=100, description="Highest priority that a tenant may give a job; above it a request gets 422."
    )
    experiment_cells_max: int = Field(
        1_000, ge=1, le=10_000, description="Cells that one experiment may have: images × values × values …"
    )
    storage_bytes_max: int | None = Field(
        None, ge=0, description="Bytes of images and results that a tenant may keep; none: no quota."
    )

    # Requests going out
    outbound_allow: HostList = Field(
        (),
        description="Hosts that may be reached although their address is not public, comma-separated, "
        "`HOST` or `HOST:PORT`.",
    )
    outbound_ports: Annotated[tuple[int, ...], NoDecode] = Field(
        (80, 443), description="Ports that outbound requests may use, comma-separated."
    )

    # The model
    model: str = Field("tiny", description="Catalogue name or directory in diffusers' format that a worker loads.")
    models: HostList = Field(
        ("tiny", "svd", "svd-xt", "svd-xt-1.1"), description="Models that the API accepts, comma-separated."
    )
    model_dir: str | None = Field(
        None, description="Where kernels compiled for a GPU are kept; default `~/.cache/animatic/models`."
    )
    device: str = Field("auto", description="`auto`, `cuda`, `cuda:N`, `mps` or `cpu`.")
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        "auto", description="`auto`: float16 on CUDA and MPS, float32 on the CPU."
    )
    offload: Literal["none", "model", "sequential"] = Field(
        "none", description="accelerate's CPU offload: less GPU memory, more time."
    )
    engine: Literal["auto", "exact", "fast", "stock"] = Field(
        "auto",
        description="`exact`: rewritten, the same output but for rounding; `fast`: with levers that "
        "change the output; `stock`: diffusers' pipeline unmodified; `auto`: exact on "
        "CUDA, stock elsewhere and where the model is offloaded.",
    )
    fast_levers: Annotated[tuple[Literal["reuse", "guidance", "consistency"], ...], NoDecode] = Field(
        ("reuse",),
        description="What the engine `fast` does, comma-separated. `reuse`: deep features serve three steps; "
        "`guidance`: on the first half of the steps only; `consistency`: a sampler for checkpoints distilled to few "
        "steps. Manifests name them.",
    )
    overlap: bool = Field(
        True,
        description="Whether a worker starts its next job while the result of the one before is encoded and stored.",
    )
    measures: bool = Field(
        True,
        description="Measure each video's motion, flicker and likeness to its image; costs a second or two of one "
        "CPU core, and of the device a pass of the image encoder.",
    )
    hf_token: SecretStr | None = Field(None, description="Hugging Face token, for gated repositories.")

    # The job's life
    heartbeat_s: float = Field(5, gt=0, description="Seconds between two heartbeats of an attempt.")
    lease_s: float = Field(30, gt=0, description="Seconds after which a silent attempt counts as lost.")
    stall_limit_s: float = Field(
        120, gt=0, description="Seconds without a step after which an attempt no longer extends its lease."
    )
    attempt_deadline_s: float = Field(900, gt=0, description="Seconds that one attempt may take.")
    max_losses: int = Field(3, ge=1, description="Lost attempts after which a job fails with `worker_lost`.")
    max_transient_failures: int = Field(5, ge=0, description="Retries of retryable errors.")
    retry_base_s: float = Field(2, gt=0, description="First pause before a retry, s; doubles each time, jittered.")
    retry_max_s: float = Field(300, gt=0, description="Longest pause before a retry, s.")
    queue_ttl_s: float | None = Field(
        None,
        gt=0,
        description="Seconds in the queue, after which a job fails with `expired_in_queue`; "
        "a resumed experiment's count anew. None: never.",
    )
    drain_grace_s: float = Field(
        25, ge=0, description="Seconds that a job may go on after SIGTERM before it is released."
    )
    maintain_interval_s: float = Field(5, gt=0, description="Seconds between the maintainer's rounds.")

    # Webhooks
    webhook_timeout_s: float = Field(20, gt=0, le=60, description="Total time of one delivery, s.")
    webhook_schedule_s: Annotated[tuple[float, ...], NoDecode] = Field(
        (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400),
        description="Pauses before each try of a delivery, s, comma-separated; afterwards it is exhausted.",
    )
    webhook_secret_overlap_s: int = Field(
        86_400, ge=0, description="How long the secret before signs webhooks, too, after a rotation, s."
    )

    # Weights & Biases
    wandb_project: str = Field("animatic", description="Project for experiments that name none.")
    wandb_entity: str | None = Field(
        None, description="Team or user whose project it is, for experiments that name none; default: the key's own."
    )
    wandb_api_key: SecretStr | None = Field(
        None, description="Key; default: `WANDB_API_KEY`, or what `wandb login` has left on the maintainer's machine."
    )
    wandb_mode: Literal["online", "offline"] | None = Field(
        None, description="`offline` writes runs into `WANDB_DIR` for `wandb sync`; default: `WANDB_MODE`, else online."
    )
    wandb_dir: str = Field("./.animatic/wandb", description="Where maintainers write runs.")
    wandb_timeout_s: float = Field(
        600, gt=0, description="Time that one try of logging up to ten runs may take, s; then it is ended."
    )
    wandb_max_tries: int = Field(10, ge=1, description="Tries of logging an experiment; then it is given up.")
    wandb_retry_s: float = Field(
        60, gt=0, description="First pause before the next try, s; doubles each time, up to an hour."
    )

    # What is kept
    retention_days: float | None = Field(
        None, gt=0, description="Days that the files of an ended job are kept; none: until it is deleted."
    )
    unused_input_days: float = Field(7, gt=0, description="Days that an uploaded image is kept which no job uses.")

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, object]) -> dict[str, object]:
        lists = ("trusted_hosts", "outbound_allow", "outbound_ports", "models", "fast_levers", "webhook_schedule_s")
        return {
            name: tuple(part.strip() for part in value.split(",") if part.strip())
            if name in lists and isinstance(value, str)
            else value
            for name, value in values.items()
        }

    @field_validator("database_url", "redis_url", mode="after")
    @classmethod
    def _check_url(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        schemes = {"database_url": ("postgresql", "postgres"), "redis_url": ("redis", "rediss")}[info.field_name or ""]
        # What is wrong is said without the URL, which holds a password.
        try:
            url = urlsplit(value.get_secret_value())
            _ = url.port
        except ValueError:
            raise ValueError("is not a URL: host or port cannot be read") from None
        if url.scheme not in schemes:
            raise ValueError(f"must begin with {schemes[0]}://")
        return value

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if self.lease_s < 3 * self.heartbeat_s:
            raise ValueError(
                f"lease_s must be at least three heartbeats ({3 * self.heartbeat_s:g} s), got {self.lease_s:g}"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `load_settings` hands the environment over itself, so that `*_FILE` and unknown names are seen.
        return (init_settings,)
