"""What the gate asks for, in the finished OpenAPI document of a FastAPI application."""

import json
import logging
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.security import HTTPBasic
from frameworks import asked
from outside import Provider

from bartizan import Issuer, Rule, allow
from bartizan.integrations.fastapi import install
from bartizan.testing import Kit

RULES = [
    Rule(["GET /openapi.json", "GET /docs"], allow.public()),
    Rule("GET /orders/{id}", allow.secret_key("orders:read") | allow.member("viewer") | allow.consumer()),
    Rule("POST /orders/{id}", allow.secret_key("orders:write") & allow.publishable_key()),
    Rule("GET /products", allow.optional(allow.publishable_key())),
    Rule("GET /health", allow.public()),
    Rule("GET /legacy", allow.untouched()),
    Rule("GET /both", allow.secret_key()),
    Rule("GET /files/{path:path}", allow.consumer("files:read")),
]


def nothing() -> None: ...


def app_of(kit: Kit) -> FastAPI:
    basic = Depends(HTTPBasic())
    app = FastAPI()
    for method in ("GET", "POST", "DELETE"):
        app.add_api_route("/orders/{id}", nothing, methods=[method])
    app.add_api_route("/products", nothing)
    app.add_api_route("/health", nothing)
    app.add_api_route("/legacy", nothing, dependencies=[basic])
    app.add_api_route("/both", nothing, dependencies=[basic])
    app.add_api_route("/files/{path:path}", nothing)
    app.add_api_route("/forgotten", nothing)
    install(app, kit.security.gate(RULES))
    return app


def kit_of() -> Kit:
    provider = Provider()
    return Kit(issuers=[Issuer(provider.url, organizations={"o"}, audience="a", jwks=provider.document)])


def test_each_alternative_is_an_entry_and_what_nobody_may_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "bartizan.integrations"):
        app = app_of(kit_of())
        document = app.openapi()
        assert app.openapi() is document
    assert [record.getMessage() for record in caplog.records] == [
        "in the schema, but no rule admits: DELETE /orders/{id}, GET /forgotten"
    ]
    found = {
        f"{method.upper()} {path}": (operation.get("security"), operation.get("x-bartizan"))
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    assert found == {
        "GET /orders/{id}": ([{"consumer": []}, {"member": []}, {"secret_key": ["orders:read"]}], None),
        "POST /orders/{id}": ([{"publishable_key": [], "secret_key": []}], None),
        "DELETE /orders/{id}": (None, "refused"),
        "GET /products": ([{"publishable_key": []}, {}], None),
        "GET /health": ([{}], None),
        "GET /legacy": ([{"HTTPBasic": []}], None),
        "GET /both": ([{"HTTPBasic": [], "secret_key": []}], None),
        "GET /files/{path}": ([{"consumer": []}], None),
        "GET /forgotten": (None, "refused"),
    }
    assert document["paths"]["/forgotten"]["get"]["description"].startswith("**Refused**")
    schemes = document["components"]["securitySchemes"]
    assert schemes["secret_key"] | {"description": ""} == {"type": "http", "scheme": "bearer", "description": ""}
    assert (schemes["publishable_key"]["in"], schemes["publishable_key"]["name"]) == ("header", "X-Publishable-Key")
    assert schemes.keys() == {"HTTPBasic", "secret_key", "publishable_key", "consumer", "member"}


def test_the_document_that_is_served_is_the_locked_one() -> None:
    kit = kit_of()
    app = app_of(kit)
    served = json.loads(asked(app, "/openapi.json").body)
    assert served == json.loads(json.dumps(app.openapi()))
    assert served["paths"]["/forgotten"]["get"]["x-bartizan"] == "refused"
    assert asked(app, "/docs").status == 200


def test_an_operation_says_what_the_gate_does() -> None:
    """For every operation a stranger is let in exactly where the document says that nobody need come."""
    kit = kit_of()
    app = app_of(kit)
    for path, item in app.openapi()["paths"].items():
        if "get" not in item or path == "/legacy":
            continue
        security = item["get"].get("security")
        target = path.replace("{id}", "1").replace("{path}", "a/b")
        let_in = asked(app, target).status == 200
        assert let_in is (security is not None and {} in security), path


def test_a_document_of_the_applications_own() -> None:
    kit = kit_of()
    app = FastAPI()
    app.add_api_route("/both", nothing)
    made: list[dict[str, Any]] = []

    def own() -> dict[str, Any]:
        made.append({"openapi": "3.1.0", "paths": {"/both": {"get": {}, "summary": "x"}}, "security": [{"mtls": []}]})
        return made[-1]

    app.openapi = own  # type: ignore[method-assign]
    install(app, kit.security.gate(RULES))
    for _ in range(2):  # made anew each time, so locked each time
        assert app.openapi()["paths"]["/both"]["get"]["security"] == [{"mtls": [], "secret_key": []}]
    assert len(made) == 2


class Proxy:
    name, slot, ambient, peers = "proxy", "x-client-cert", False, None

    def recognises(self, presented: bytes) -> bool:
        return True

    async def authenticate(self, presented: bytes, request: Any) -> Any:
        raise AssertionError


def test_a_credential_of_the_applications_own() -> None:
    app = FastAPI()
    app.add_api_route("/reports", nothing)
    rules = [Rule("GET /reports", allow.credential("proxy", "reports:read") & allow.when("open", lambda *_: True))]
    install(app, Kit().security.gate(rules, authenticators=[Proxy()]))
    document = app.openapi()
    assert document["paths"]["/reports"]["get"]["security"] == [{"proxy": ["reports:read"]}]
    scheme = document["components"]["securitySchemes"]["proxy"]
    assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "header", "x-client-cert")
