"""Settings come from the environment, strictly; the page that lists them is the model's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared import settings_doc
from shared.environment import CLIENT_VARIABLES, load_settings
from shared.errors import StartupError
from shared.exit_codes import ExitCode
from shared.settings import PREFIX, Settings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def refusal(environ: dict[str, str]) -> StartupError:
    with pytest.raises(StartupError) as caught:
        load_settings(environ)
    assert caught.value.exit_code == ExitCode.CONFIG
    return caught.value


def test_the_committed_page_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_doc.render(), (
        "run: python -m shared.settings_doc > docs/settings.md"
    )


def test_the_page_lists_every_variable_and_describes_every_setting() -> None:
    page = settings_doc.render()
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert page.count(f"| `{PREFIX}{name.upper()}` |") == 1
    for variable in CLIENT_VARIABLES:
        assert page.count(f"| `{variable}` |") == 1


def test_the_page_shows_no_secret_default() -> None:
    page = settings_doc.render()
    assert "postgresql://" not in page
    assert "redis://" not in page


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load_settings({}) == Settings()


def test_variables_set_what_they_name_and_others_are_left_alone() -> None:
    settings = load_settings({"ANIMATIC_API_PORT": "9000", "ANIMATIC_LEASE_S": "45.5", "PATH": "/bin", "LEASE_S": "1"})
    assert (settings.api_port, settings.lease_s) == (9000, 45.5)


def test_lists_are_comma_separated() -> None:
    settings = load_settings(
        {
            "ANIMATIC_MODELS": "svd, tiny ,",
            "ANIMATIC_OUTBOUND_PORTS": "80,8443",
            "ANIMATIC_WEBHOOK_SCHEDULE_S": "0,1.5",
        }
    )
    assert settings.models == ("svd", "tiny")
    assert settings.outbound_ports == (80, 8443)
    assert settings.webhook_schedule_s == (0, 1.5)


@pytest.mark.parametrize("variable", ["ANIMATIC_API_PROT", "ANIMATIC_", "ANIMATIC_LEASE", "ANIMATIC_NOTHING_FILE"])
def test_an_unknown_variable_ends_the_start_and_is_named(variable: str) -> None:
    assert variable in str(refusal({variable: "x"}))


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("ANIMATIC_API_PROT", "ANIMATIC_API_PORT"),
        ("ANIMATIC_DATABASE", "ANIMATIC_DATABASE_URL"),
        ("ANIMATIC_APIKEY", "ANIMATIC_API_KEY"),
    ],
)
def test_the_error_names_the_variable_that_was_meant(variable: str, meant: str) -> None:
    assert f"unknown setting {variable} (did you mean {meant}?)" in str(refusal({variable: "x"}))


@pytest.mark.parametrize("variable", sorted(CLIENT_VARIABLES))
def test_the_clients_variables_are_known(variable: str) -> None:
    assert load_settings({variable: "x"}) == Settings()


@pytest.mark.parametrize(
    "variable",
    [
        "ANIMATIC_SERVICE_HOST",
        "ANIMATIC_SERVICE_PORT",
        "ANIMATIC_SERVICE_PORT_HTTP",
        "ANIMATIC_PORT",
        "ANIMATIC_PORT_8000_TCP",
        "ANIMATIC_PORT_8000_TCP_ADDR",
        "ANIMATIC_API_SERVICE_HOST",
        "ANIMATIC_API_PORT_8000_TCP_PROTO",
        "ANIMATIC_API_PORT",
    ],
)
def test_what_kubernetes_injects_is_ignored(variable: str) -> None:
    assert load_settings({variable: "tcp://10.0.0.1:8000"}) == Settings()


def test_an_empty_variable_counts_as_absent() -> None:
    assert load_settings({"ANIMATIC_API_PORT": "", "ANIMATIC_QUEUE_TTL_S": "", "ANIMATIC_UNKNOWN": ""}) == Settings()


def test_a_file_gives_the_value_without_the_newline_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "redis").write_text("redis://:secret@redis:6379/0\n")
    settings = load_settings({"ANIMATIC_REDIS_URL_FILE": str(tmp_path / "redis")})
    assert settings.redis_url.get_secret_value() == "redis://:secret@redis:6379/0"


@pytest.mark.parametrize("order", [1, -1])
def test_a_variable_wins_over_its_file_but_an_empty_one_does_not(tmp_path: Path, order: int) -> None:
    (tmp_path / "region").write_text("from-file")
    file = ("ANIMATIC_S3_REGION_FILE", str(tmp_path / "region"))
    assert load_settings(dict([("ANIMATIC_S3_REGION", "direct"), file][::order])).s3_region == "direct"
    assert load_settings(dict([("ANIMATIC_S3_REGION", ""), file][::order])).s3_region == "from-file"


def test_a_file_that_cannot_be_read_ends_the_start_and_is_named(tmp_path: Path) -> None:
    message = str(refusal({"ANIMATIC_REDIS_URL_FILE": str(tmp_path / "missing")}))
    assert "ANIMATIC_REDIS_URL_FILE" in message
    assert str(tmp_path / "missing") in message


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ANIMATIC_API_PORT", "80000"),
        ("ANIMATIC_API_PORT", "http"),
        ("ANIMATIC_OFFLOAD", "all"),
        ("ANIMATIC_MAX_LOSSES", "0"),
        ("ANIMATIC_LEASE_S", "-1"),
        ("ANIMATIC_OUTBOUND_PORTS", "80,x"),
    ],
)
def test_a_bad_value_ends_the_start_and_the_variable_is_named(variable: str, value: str) -> None:
    assert variable in str(refusal({variable: value}))


def test_a_bad_secret_is_not_shown() -> None:
    assert "too-short" not in str(refusal({"ANIMATIC_BOOTSTRAP_API_KEY": "too-short"}))


def test_a_lease_must_outlast_three_heartbeats() -> None:
    assert "lease_s" in str(refusal({"ANIMATIC_HEARTBEAT_S": "11"}))


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings({}).api_port = 1  # type: ignore[misc]


def test_a_secret_does_not_show_when_settings_are_printed() -> None:
    settings = load_settings({"ANIMATIC_REDIS_URL": "redis://:hunter2@redis/0"})
    assert "hunter2" not in f"{settings!r} {settings}"
