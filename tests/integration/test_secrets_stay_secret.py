"""Secrets are shown once, by the answer that makes them, and are nowhere else in what a run leaves behind.

A whole life with the real process: endpoints created and rotated, with drawn and brought secrets, verified,
refused, failing, killed in the middle, started again; then every answer, both output streams, and every file
and database row of the data directory are searched. The scanner is held to find what is planted.
"""

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rocksdict import Options, Rdict, WriteOptions

from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import ReceiverThread
from operators.signing import decode_secret
from tests.integration.hooktide_process import Answer, HooktideProcess, await_events
from tests.integration.leak_scan import LeakScan, forms_of, rows_of
from tests.integration.log_dump import dump

HEADER_VALUE = "Bearer hv-0123456789-abcdefghijklmnop"
"""An endpoint's own credential: kept as it is given, and never shown."""
EXPECTED = {("admin key", "admin.key"), ("master key", "master.key")}


class Life:
    """Asks the API and keeps every answer; secrets of those that may show one are taken out of it first."""

    def __init__(self, hooktide: HooktideProcess) -> None:
        self.hooktide = hooktide
        self.secrets: dict[str, str] = {}
        self.answers: list[bytes] = []

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        answer = self.hooktide.api(method, path, body, headers)
        self.answers += [answer.body, repr(answer.headers).encode()]
        return answer

    def make(self, name: str, path: str, body: object) -> Any:  # noqa: ANN401 - JSON is what it is
        """Asks for something that is answered with a secret, which is noted and must be there once."""
        answer = self.hooktide.api("POST", path, body)
        assert answer.status in (200, 201), answer.body
        secret = answer.json["secret"]
        self.secrets[name] = secret
        assert answer.body.count(secret.encode()) == 1
        self.answers += [answer.body.replace(secret.encode(), b""), repr(answer.headers).encode()]
        return answer.json


def brought() -> str:
    return "whsec_" + base64.b64encode(os.urandom(40)).decode()


@pytest.fixture
def receiver() -> Iterator[ReceiverThread]:
    with ReceiverThread() as thread:
        yield thread


def test_a_whole_life_shows_each_secret_once(
    hooktide: HooktideProcess, receiver: ReceiverThread, tmp_path: Path
) -> None:
    outputs = []
    hooktide.start(["--log-level", "debug"])
    life = Life(hooktide)
    life.secrets["admin key"] = hooktide.admin_key
    life.secrets["master key"] = "whsec_" + (hooktide.data / "master.key").read_text().strip()
    endpoints = _create(life, receiver)
    _refuse(life, receiver)
    wanted = _publish(life, endpoints)
    await_events(receiver, wanted)
    _read_everything(life, endpoints, wanted)
    hooktide.kill()
    outputs += [hooktide.greeting, hooktide.log]

    hooktide.start(["--log-level", "debug"])
    wanted |= _publish(life, endpoints)
    await_events(receiver, wanted)
    _rotate_and_end(life, endpoints)
    _read_everything(life, endpoints, wanted)
    assert hooktide.terminate() == 0, hooktide.log
    outputs += [hooktide.greeting, hooktide.log]

    assert len(life.secrets) == 9
    scan = LeakScan(life.secrets)
    for answer in life.answers:
        assert scan.found_in(answer) == set(), answer
        assert HEADER_VALUE.encode() not in answer
    for output in outputs:
        assert scan.found_in(output.encode()) == set(), output
        assert HEADER_VALUE not in output
    assert scan.found_below(hooktide.data) == EXPECTED
    for table, rows in _tables(hooktide.data).items():
        assert scan.found_in(rows) == set(), table
    _assert_the_search_sees(hooktide.data, endpoints[0]["url"])
    _assert_planted_leaks_are_found(hooktide.data, life.secrets, tmp_path)


def _create(life: Life, receiver: ReceiverThread) -> list[dict[str, Any]]:
    def body(path: str, **more: object) -> dict[str, object]:
        return {"tenant_id": "acme", "url": f"{receiver.url}/{path}", "event_types": ["*"], **more}

    path = "webhooks/endpoints"
    headers = {"Authorization": HEADER_VALUE}
    made = [
        life.make("drawn", path, body("drawn", headers=headers)),
        life.make("brought", path, body("brought", secret=brought())),
        life.make("skipped", path, body("skipped", verification="skip")),
        life.make("async", path, body("async", verification="async")),
    ]
    life.make("rotated", f"{path}/{made[0]['id']}/secret/rotate", None)
    life.make("rotated, brought", f"{path}/{made[1]['id']}/secret/rotate", {"secret": brought()})
    receiver.trust([decode_secret(life.secrets[name]) for name in ("drawn", "brought", "skipped", "async")])
    return made


def _refuse(life: Life, receiver: ReceiverThread) -> None:
    """Requests that carry secrets and are refused: by the API, by the receiver, by our guard."""
    secret = life.secrets["brought"]
    good = {"tenant_id": "acme", "url": f"{receiver.url}/no", "event_types": ["*"], "secret": secret}
    receiver.behave(Behaviour(status=500, body=b"no"), "/no")
    wrong: list[tuple[object, int]] = [
        (good, 422),
        ({**good, "url": "http://169.254.169.254/"}, 422),
        ({**good, "url": "http://127.0.0.1:9/"}, 422),
        ({**good, "secret": secret + "!"}, 422),
        ({**good, "secret": [secret]}, 422),
        ({**good, "colour": secret}, 422),
    ]
    for body, status in wrong:
        assert life.ask("POST", "webhooks/endpoints", body).status == status, body
    assert life.ask("POST", "webhooks/endpoints", good, **{"Idempotency-Key": "k"}).status == 400
    assert (
        life.ask("GET", "webhooks/endpoints", Authorization=f"Basic {life.secrets['admin key']}").status
        == 401
    )
    assert life.ask("GET", "webhooks/endpoints", Authorization="Bearer wrong").status == 401


def _publish(life: Life, endpoints: list[dict[str, Any]]) -> set[str]:
    wanted = set()
    for number in range(5):
        body = {"tenant_id": "acme", "type": "order.created", "data": {"n": number}}
        published = life.ask("POST", "events", body, **{"Idempotency-Key": f"key-{number}"})
        assert published.status == 202
        wanted.add(published.json["id"])
    tested = life.ask("POST", f"webhooks/endpoints/{endpoints[0]['id']}/test")
    return {*wanted, tested.json["id"]}


def _rotate_and_end(life: Life, endpoints: list[dict[str, Any]]) -> None:
    path = f"webhooks/endpoints/{endpoints[2]['id']}"
    life.make("rotated at once", f"{path}/secret/rotate", {"overlap_seconds": 0})
    one = f"webhooks/endpoints/{endpoints[0]['id']}"
    for method, suffix, body in [
        ("PATCH", "", {"description": "changed", "headers": {"X-Api-Key": HEADER_VALUE}}),
        ("POST", "/verify", None),
        ("POST", "/pause", None),
        ("POST", "/resume", None),
    ]:
        assert life.ask(method, one + suffix, body).status == 200
    gone = f"webhooks/endpoints/{endpoints[3]['id']}"
    assert life.ask("POST", f"{gone}/disable").status == 200
    assert life.ask("DELETE", gone).status == 204


def _read_everything(life: Life, endpoints: list[dict[str, Any]], event_ids: set[str]) -> None:
    """Every route that reads, the health and the metrics."""
    for endpoint in endpoints:
        life.ask("GET", f"webhooks/endpoints/{endpoint['id']}")
    assert life.ask("GET", "webhooks/endpoints?limit=200").status == 200
    for event_id in event_ids:
        life.hooktide.get_until(
            f"events/{event_id}/deliveries",
            lambda page: page["data"] and all(one["state"] == "delivered" for one in page["data"]),
            15,
        )
        assert life.ask("GET", f"events/{event_id}").status == 200
        for delivery in life.ask("GET", f"events/{event_id}/deliveries").json["data"]:
            assert life.ask("GET", f"deliveries/{delivery['id']}").status == 200
    for path in ("/metrics", "/livez", "/readyz", "/api/v1/nowhere"):
        life.ask("GET", path)


def _tables(data: Path) -> dict[str, bytes]:
    """Returns what each table of the delivery log holds, as it is read out of it."""
    names = dump(data, "SELECT name FROM system.tables WHERE database = 'hooktide'")
    return {one["name"]: repr(dump(data, f"SELECT * FROM hooktide.{one['name']}")).encode() for one in names}


def _assert_the_search_sees(data: Path, url: str) -> None:
    """The same search finds what must be there: in a file, and in a row."""
    rows = [row for current in data.rglob("CURRENT") for row in rows_of(current.parent)]
    assert any(url.encode() in row for row in rows), "the endpoints' records were not read"
    assert any(b"key-1" in row for row in rows), "the idempotency store was not read"
    assert b"order.created" in _tables(data)["events"]


def _assert_planted_leaks_are_found(data: Path, secrets: dict[str, str], tmp_path: Path) -> None:
    scan = LeakScan(secrets)
    for number, (name, secret) in enumerate(secrets.items()):
        for form in forms_of(secret):
            assert scan.found_in(b"a line with " + form + b" in it") == {name}, (name, form)
        text = secret.encode()
        for before in range(3):
            packed = base64.b64encode(b"x" * before + text + b"after")
            assert scan.found_in(packed) == {name}, f"{name}, {before} bytes into base64"
        place = tmp_path / f"planted-{number}"
        place.mkdir()
        (place / "file").write_bytes(b"\0" + text)
        assert scan.found_below(place) == {(name, "file")}

    # In a row of a real database of the run, as a leaking version would have written it.
    copy = tmp_path / "copy"
    shutil.copytree(data / "idempotency", copy)
    options = Options(raw_mode=True)
    options.set_wal_dir(str(copy / "wal"))
    families = {
        name: Options(raw_mode=True) for name in Rdict.list_cf(str(copy), options) if name != "default"
    }
    database = Rdict(str(copy), options, column_families=families)
    family = database.get_column_family(next(iter(families)))
    flushed = WriteOptions()
    family.put(b"leak", decode_secret(secrets["drawn"]) * 3, flushed)
    family.flush()
    database.close()
    assert {name for name, _ in scan.found_below(copy)} == {"drawn"}
    assert any(where.endswith("row") for _, where in scan.found_below(copy))
