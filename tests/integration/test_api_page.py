"""docs/api.md tells the truth: every path with its method, status and code, every field and parameter."""

import re
from pathlib import Path

import pytest

from api.actions.ask_receiver import EVENT_TYPE
from api.actions.list_deliveries import DELIVERY_PARAMETERS, EVENT_PARAMETERS
from deploy.checks import ROOT
from schemas.endpoint import EndpointStatus, VerificationState
from schemas.outcome import ErrorCode
from schemas.problem_codes import STATUS_OF
from schemas.rest.endpoint import CreateEndpoint, EndpointAnswer, RotateSecret, SendTest
from tests.integration.api_world import ApiWorld, open_log, unread_delivery_log, unused_store

PAGE = (ROOT / "docs" / "api.md").read_text()
NAMED = set(re.findall(r"`([^`\n]+)`", PAGE))
WORDS = set(re.findall(r"[a-z_0-9.]+", " ".join(NAMED)))


def test_every_code_stands_in_the_table_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| ((?:`[a-z_]+`(?:, )?)+) \|", PAGE, re.MULTILINE)
    named = {(code, int(status)) for status, codes in rows for code in re.findall(r"[a-z_]+", codes)}
    assert named == {(code.value, status) for code, status in STATUS_OF.items()}


def test_every_field_of_an_endpoint_is_named() -> None:
    fields = {*CreateEndpoint.model_fields, *EndpointAnswer.__struct_fields__}
    fields |= {*RotateSecret.model_fields, *SendTest.model_fields}
    assert fields - WORDS == set()


def test_every_word_that_an_answer_may_hold_is_named() -> None:
    words = {*EndpointStatus, *VerificationState, EVENT_TYPE}
    words |= {code.value for code in ErrorCode if code and not code.is_ours}
    assert words - WORDS == set()


@pytest.mark.parametrize("parameters", [DELIVERY_PARAMETERS, EVENT_PARAMETERS])
def test_every_parameter_of_a_list_is_named(parameters: tuple[str, ...]) -> None:
    assert set(parameters) - WORDS == set()


async def test_every_path_is_named_with_its_method(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    missing = []
    async with ApiWorld(log, unread_delivery_log(), unused_store()).running() as world:
        assert world.app is not None
        routes = [route for route in world.app.router.routes() if route.method != "HEAD"]
    log.close()
    for route in routes:
        assert route.resource is not None
        path = re.sub(r"\{[a-z_]+\}", "{id}", route.resource.canonical)
        action = path.partition("/{id}/")[2]
        in_heading = f"`{route.method} {path}`" in PAGE
        in_table = f"| `{route.method}` | `{path}` |" in PAGE
        among_actions = (
            re.search(rf"^\| `{route.method}` \| [^|]*\b{action}`", PAGE, re.MULTILINE) if action else None
        )
        if not (in_heading or in_table or among_actions):
            missing.append(f"{route.method} {path}")
    assert len(routes) > 15
    assert missing == []
