"""Looks at the network: loopback, the API's port, names; a connection to the outside only when asked to."""

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Final

from deploy.doctor.finding import Finding, failed, ok, warning
from deploy.process.embedded import refuse_taken_port
from schemas.errors import Refused

TIMEOUT_S: Final = 5.0
ASKED_NAME: Final = "example.com"  # reserved for such uses: RFC 2606


def look_at_loopback() -> Finding:
    """Connects to itself."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), TIMEOUT_S).close()
    except OSError as error:
        return failed(
            "loopback", f"127.0.0.1 cannot be reached ({error})", "bring the interface up: ip link set lo up"
        )
    return ok("loopback", "127.0.0.1 answers")


def look_at_port(host: str, port: int) -> Finding:
    """Sees whether the API could have its port."""
    try:
        refuse_taken_port(host, port)
    except Refused as error:
        if _is_hooktide(host, port):
            return warning(
                "port", f"a Hooktide answers on {port} already", "use it, or give a second one --port"
            )
        return failed("port", str(error), f"whatever holds it: `ss -ltnp sport = :{port}` shows it")
    return ok("port", f"{port} on {host} is free" if port else f"any on {host}")


def _is_hooktide(host: str, port: int) -> bool:
    connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        return answer.status == HTTPStatus.OK and answer.read(16).strip() == b"ok"
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def look_at_names() -> Finding:
    """Asks the system for the address of a public name; without it only literal addresses are reached."""
    asking = ThreadPoolExecutor(1, "names")
    try:
        found = asking.submit(socket.getaddrinfo, ASKED_NAME, 443, type=socket.SOCK_STREAM).result(TIMEOUT_S)
    except (OSError, TimeoutError) as error:
        what = f"{ASKED_NAME} cannot be looked up ({str(error) or 'no answer'})"
        return warning("names", what, "endpoints by name need DNS: look at /etc/resolv.conf")
    finally:
        asking.shutdown(wait=False)
    return ok("names", f"{ASKED_NAME} is {found[0][4][0]}")


def look_at_tls(host: str) -> Finding:
    """Makes a TLS connection, as a delivery would."""
    context = ssl.create_default_context()
    try:
        with (
            socket.create_connection((host, 443), TIMEOUT_S) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            return ok("tls", f"{host} speaks {secured.version()}")
    except OSError as error:
        return warning(
            "tls", f"{host}: {error}", "a firewall, or certificates that this machine does not know"
        )
