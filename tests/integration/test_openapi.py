"""The OpenAPI document is valid, whole, and what the routes do."""

from __future__ import annotations

from openapi_spec_validator import validate

from api.app import create_app
from shared.params import GenerationParams
from shared.settings import Settings


def test_the_document_is_valid_openapi(client) -> None:
    validate(client.get("/openapi.json").json)


def test_every_route_is_documented(settings: Settings) -> None:
    app = create_app(settings)
    documented = {
        (path.replace("{", "<").replace("}", ">"), method.upper())
        for path, operations in app.test_client().get("/openapi.json").json["paths"].items()
        for method in operations
    }
    routes = {
        (rule.rule.replace("string:", "").replace("int:", ""), method)
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/v1/") or rule.rule in ("/healthz", "/readyz", "/metrics")
    }
    assert routes == documented


def test_a_job_can_be_sent_as_json_and_as_a_form_with_every_parameter(client) -> None:
    content = client.get("/openapi.json").json["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]["properties"]
    assert form["image"]["format"] == "binary"
    assert set(GenerationParams.model_fields) <= set(form)
    assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/JobRequest"}


def test_errors_are_documented_as_problems(client) -> None:
    paths = client.get("/openapi.json").json["paths"]
    answers = [
        (status, answer)
        for operations in paths.values()
        for operation in operations.values()
        for status, answer in operation["responses"].items()
    ]
    assert all(list(answer["content"]) == ["application/problem+json"] for status, answer in answers if status >= "400")
