"""Run in a network namespace of its own: sends more requests at once than there are local ports.

Prints the error codes of the outcomes as a JSON list.
"""

import fcntl
import json
import socket
import struct
import sys
import threading
from pathlib import Path

from dataflows.connectors.sender.aiohttp import EgressPolicy, open_aiohttp_sender
from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import ReceiverThread
from schemas.outcome import Outcome, PreparedRequest

PORTS = 8
REQUESTS = 24
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


def main() -> None:
    with socket.socket() as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"40000 {40_000 + PORTS - 1}\n")
    outcomes: list[Outcome] = []
    with ReceiverThread() as receiver:
        receiver.behave(Behaviour(delay_s=2.0))  # longer than it takes to try all of them
        sender = open_aiohttp_sender(EgressPolicy(allow_private=True))
        sender.submit([request(number, f"{receiver.url}/{number}") for number in range(REQUESTS)])
        while len(outcomes) < REQUESTS:
            outcomes += sender.collect()
            threading.Event().wait(0.01)
        sender.close(1.0)
    sys.stdout.write(json.dumps([outcome.error_code for outcome in outcomes]))


def request(number: int, url: str) -> PreparedRequest:
    return PreparedRequest(
        token=(0, number),
        pool_key=f"ep_{number}",
        url=url,
        headers=(("content-type", "application/json"), ("webhook-id", f"evt_{number}")),
        own_headers=0,
        body=b"{}",
        connect_timeout_ms=5_000,
        total_timeout_ms=15_000,
        follow_redirect=False,
    )


if __name__ == "__main__":
    main()
