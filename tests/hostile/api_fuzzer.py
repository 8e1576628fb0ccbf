"""A fuzzer for the API: valid requests, mutated on every level, from the path to the framing of the bytes.

It is told the routes by the application, so a new one is fuzzed without being mentioned here; what a good
body looks like is known for those that take one, others get somebody else's. It looks for answers that no
request may earn (5xx, none at all, a refusal without its form), and keeps a list of what was promised (201,
202), so that somebody else can ask whether the promises were kept.

Seeded: a finding holds the bytes that were sent, which is all that is needed to see it again. Requests reach
loopback only: hosts in URLs are literals, and what no mutation may touch (a port) is not in mutated text.

Rejected: schemathesis (it needs an OpenAPI document, which is not there yet, and speaks HTTP through a client
library, so the framing would go untested).
"""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from random import Random
from typing import Any

from aiohttp import web

from schemas.ids import EVENT_PREFIX
from schemas.problem_codes import STATUS_OF, ProblemCode
from tests.hostile.api_fuzz_words import (
    BODIES,
    COLLECTED_TENANTS,
    EXTRA_LINES,
    FIELDS,
    HEADERS,
    JSON_VALUES,
    LENGTHS,
    METHODS,
    OTHER_TENANT,
    PARAMETERS,
    PATH_PIECES,
    PIECES,
    VALUES,
    VERSIONS,
    Route,
)

ANSWER_TIMEOUT_S = 20.0
BROKEN_TIMEOUT_S = 0.2
FINDINGS_MAX = 20
WEIGHT_OF_WRITES = 5
"""Routes whose bodies are known, against the others: there are twenty reads to five writes."""


@dataclass
class Report:
    """What a run did.

    Attributes:
        findings: what should not have been answered: why, and the bytes that were sent.
        promised: events that a 202 named, each with whether the collector of its tenant must get it.
        created: endpoints that a 201 named and that nobody can have deleted.
        statuses: how often each status was answered to each route; 0 is no answer to a broken request.
    """

    findings: list[tuple[str, bytes]] = field(default_factory=list)
    promised: dict[str, bool] = field(default_factory=dict)
    created: set[str] = field(default_factory=set)
    statuses: Counter[tuple[Route, int]] = field(default_factory=Counter)
    findings_max: int = FINDINGS_MAX
    answer_timeout_s: float = ANSWER_TIMEOUT_S
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def request_count(self) -> int:
        return self.statuses.total()

    def lost(self, in_log: set[str], collected: set[str]) -> list[str]:
        """Returns a sentence for each promise that was not kept."""
        missing = [f"{one} was accepted and is not in the log" for one in self.promised if one not in in_log]
        return missing + [
            f"{one} was accepted and not delivered"
            for one, is_collected in self.promised.items()
            if is_collected and one not in collected
        ]


@dataclass
class Sent:
    """A request as it goes out; `is_whole` says whether an answer is owed."""

    route: Route
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes | None
    is_whole: bool = True
    wire: bytes = b""


def routes_of(app: web.Application) -> list[Route]:
    """Returns method and path template of every route of the application."""
    found = {(route.method, resource.canonical) for resource in app.router.resources() for route in resource}
    return sorted(found)


def fuzz(
    address: tuple[str, int],
    key: str,
    routes: Sequence[Route],
    *,
    seed: int,
    seconds: float,
    findings_max: int = FINDINGS_MAX,
    answer_timeout_s: float = ANSWER_TIMEOUT_S,
) -> Report:
    """Sends requests from three threads for so long, or until enough was found."""
    report = Report(findings_max=findings_max, answer_timeout_s=answer_timeout_s)
    until_s = time.monotonic() + seconds
    threads = [
        threading.Thread(
            target=_Worker(address, key, routes, Random(f"{seed}/{number}"), report).run, args=(until_s,)
        )
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return report


class _Worker:
    def __init__(
        self, address: tuple[str, int], key: str, routes: Sequence[Route], random: Random, report: Report
    ) -> None:
        self._address = address
        self._key = key
        self._routes = routes
        self._weights = [WEIGHT_OF_WRITES if route in BODIES else 1 for route in routes]
        self._random = random
        self._report = report
        self._ids: dict[str, list[str]] = {"endpoint_id": [], "event_id": [], "delivery_id": []}
        self._etags = ['"0-active"']

    def run(self, until_s: float) -> None:
        while time.monotonic() < until_s and len(self._report.findings) < self._report.findings_max:
            sent = self._make()
            try:
                self._exchange(sent)
            except Exception as error:  # noqa: BLE001 - a fuzzer that stops silently finds nothing
                self._find(f"the fuzzer failed: {error!r}", sent)

    def _exchange(self, sent: Sent) -> None:
        timeout_s = self._report.answer_timeout_s if sent.is_whole else BROKEN_TIMEOUT_S
        try:
            with socket.create_connection(self._address, timeout=timeout_s) as connection:
                connection.sendall(sent.wire)
                with HTTPResponse(connection, method=sent.method) as response:
                    response.begin()
                    body = response.read()
        except (OSError, HTTPException) as error:
            self._count(sent, 0)
            self._forget_deleted(sent)  # a broken request may be carried out, and answered too late
            if sent.is_whole:
                self._find(f"no answer: {error!r}", sent)
            return
        headers = {name.lower(): value for name, value in response.getheaders()}
        self._count(sent, response.status)
        self._judge(sent, response.status, headers, body)

    def _judge(self, sent: Sent, status: int, headers: dict[str, str], body: bytes) -> None:
        if status >= 500:
            self._find(f"{status}: {body[:300]!r}", sent)
        elif status >= 400 and sent.method != "HEAD":
            self._judge_problem(sent, status, headers, body)
        elif status == 200 and sent.is_whole:
            self._etags = [*self._etags[-20:], headers.get("etag", '"1-active"')]
            self._learn_deliveries(body)
        elif status in (201, 202):
            self._promise(sent, status, json.loads(body)["id"])
        elif status == 204:
            self._forget_deleted(sent)

    def _forget_deleted(self, sent: Sent) -> None:
        """Expects no endpoint any more that this request may have deleted."""
        if b"DELETE" in sent.wire:
            with self._report.lock:
                self._report.created = {
                    name for name in self._report.created if name.encode() not in sent.wire
                }

    def _judge_problem(self, sent: Sent, status: int, headers: dict[str, str], body: bytes) -> None:
        if headers.get("content-type") != "application/problem+json":
            self._find(f"{status} is no problem document: {body[:300]!r}", sent)
            return
        problem = json.loads(body)
        if STATUS_OF[ProblemCode(problem["code"])] != status or not problem["detail"].endswith("."):
            self._find(f"{status} does not fit: {body[:300]!r}", sent)

    def _promise(self, sent: Sent, status: int, name: str) -> None:
        with self._report.lock:
            if status == 201:
                self._report.created.add(name)
                self._ids["endpoint_id"] = [*self._ids["endpoint_id"][-20:], name]
                return
            if not name.startswith(EVENT_PREFIX):  # an action on something else, which promises no event
                return
            is_for_all = (
                sent.is_whole
                and sent.route[1].endswith("/events")
                and b"endpoint_ids" not in (sent.body or b"")
            )
            tenant = json.loads(sent.body or b"{}").get("tenant_id") if is_for_all else None
            # A key may name an event that another body made: whoever says "collected" first stays right.
            is_collected = self._report.promised.get(name, False) or tenant in COLLECTED_TENANTS
            self._report.promised[name] = is_collected
            self._ids["event_id"] = [*self._ids["event_id"][-20:], name]

    def _learn_deliveries(self, body: bytes) -> None:
        if b'"dlv_' in body:
            found = [piece.partition(b'"')[0].decode() for piece in body.split(b'"id":"')[1:]]
            self._ids["delivery_id"] = [one for one in found if one.startswith("dlv_")][:20]

    def _count(self, sent: Sent, status: int) -> None:
        with self._report.lock:
            self._report.statuses[sent.route, status] += 1

    def _find(self, why: str, sent: Sent) -> None:
        with self._report.lock:
            self._report.findings.append((why, sent.wire))

    # --- making requests ---

    def _make(self) -> Sent:
        random = self._random
        method, template = route = random.choices(self._routes, self._weights)[0]
        path = template
        for name in [piece.partition("}")[0] for piece in template.split("{")[1:]]:
            known = self._ids.get(name, [])
            chosen = random.choice(known) if known and random.random() < 0.8 else random.choice(PATH_PIECES)
            path = path.replace("{" + name + "}", chosen)
        sent = Sent(route, method, path + self._query(method), self._headers(), self._body(route))
        if random.random() < 0.05:
            sent.method = random.choice(METHODS)
        self._frame(sent)
        return sent

    def _query(self, method: str) -> str:
        random = self._random
        if random.random() < (0.9 if method == "POST" else 0.7):
            return ""
        pairs = [f"{random.choice(PARAMETERS)}={random.choice(VALUES)}" for _ in range(random.randint(1, 3))]
        return "?" + "&".join(pairs)

    def _headers(self) -> list[tuple[str, str]]:
        random = self._random
        headers = [("Host", "localhost"), ("Connection", "close")]
        if random.random() < 0.97:
            headers.append(("Authorization", f"Bearer {self._key}"))
        if random.random() < 0.95:
            headers.append(("Content-Type", "application/json"))
        for name, values in HEADERS.items():
            if random.random() < 0.03:
                headers.append((name, random.choice(values)))
        if random.random() < 0.1:
            headers.append(("If-Match", random.choice(self._etags)))
        return headers

    def _body(self, route: Route) -> bytes | None:
        random = self._random
        if route not in BODIES and random.random() < (0.9 if route[0] in ("GET", "HEAD") else 0.6):
            return None
        body = BODIES.get(route) or random.choice(list(BODIES.values()))
        tree = json.loads(json.dumps(body))
        if route[1].endswith("/events"):
            tree["tenant_id"] = random.choice((*COLLECTED_TENANTS, *COLLECTED_TENANTS, OTHER_TENANT))
            tree["data"] = {"n": random.getrandbits(40)}
        for _ in range(random.choice((0, 0, 0, 1, 1, 2))):
            tree = self._mutated(tree)
        raw = json.dumps(tree, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
        return raw if random.random() < 0.85 else self._mutated_text(raw)

    def _mutated(self, tree: Any) -> Any:  # noqa: ANN401 - any JSON
        random = self._random
        if not isinstance(tree, dict) or not tree or random.random() < 0.03:
            return random.choice(JSON_VALUES)
        name = random.choice(list(tree))
        kind = random.randrange(5)
        if kind == 0:
            del tree[name]
        elif kind == 1:
            tree[random.choice(FIELDS)] = random.choice(JSON_VALUES)
        elif kind == 2 and isinstance(tree[name], dict):
            tree[name] = self._mutated(tree[name])
        else:
            tree[name] = random.choice(JSON_VALUES)
        return tree

    def _mutated_text(self, raw: bytes) -> bytes:
        random = self._random
        at = random.randrange(len(raw) + 1)
        end = min(len(raw), at + random.randint(0, 9))
        match random.randrange(5):
            case 0:
                return raw[:at]
            case 1:
                return raw[:at] + raw[end:]
            case 2:
                return raw[:end] + raw[at:]
            case 3:
                return raw[:at] + random.randbytes(random.randint(1, 3)) + raw[end:]
            case _:
                return raw[:at] + random.choice(PIECES) + raw[at:]

    def _frame(self, sent: Sent) -> None:
        """Writes the request down; one in ten is broken there, and owed no answer."""
        random = self._random
        headers, body = list(sent.headers), sent.body or b""
        if sent.body is not None and random.random() < 0.1:
            headers.append(("Transfer-Encoding", "chunked"))
            cut = random.randrange(len(body) + 1)
            chunks = [chunk for chunk in (body[:cut], body[cut:]) if chunk]
            body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        elif sent.body is not None:
            headers.append(("Content-Length", str(len(body))))
        random.shuffle(headers)
        lines = [f"{sent.method} {sent.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
        if random.random() < 0.1:
            sent.is_whole = False
            head = self._broken(head)
        sent.wire = head + body

    def _broken(self, head: bytes) -> bytes:
        random = self._random
        at = random.randrange(len(head))
        match random.randrange(7):
            case 0:
                return head.replace(b"Content-Length: ", random.choice(LENGTHS), 1)
            case 1:
                return head[:at]
            case 2:
                return head[:at] + random.randbytes(random.randint(1, 4)) + head[at + 1 :]
            case 3:
                return head.replace(b"\r\n", b"\n")
            case 4:
                return head.replace(b"HTTP/1.1", random.choice(VERSIONS), 1)
            case 5:
                return head[:-2] + random.choice(EXTRA_LINES) + b"\r\n\r\n"
            case _:
                return head + head
