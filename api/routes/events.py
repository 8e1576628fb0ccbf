"""`/api/v1/events`: publish, read back, and the deliveries that came of it."""

from typing import Final

from aiohttp import web

from api.actions.publish_event import PublishEvents, digest_of
from api.actions.read_history import ReadHistory
from api.answers import json_answer
from api.bodies import read_body
from api.front import PRINCIPAL
from api.idempotency import IdempotencyGate
from api.idempotency_key import HEADER, REPLAYED_HEADER, parse_key
from api.metrics import ApiMetrics
from api.pages import check_parameters, page_of

PATH: Final = "/api/v1/events"
