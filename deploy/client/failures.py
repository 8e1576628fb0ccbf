"""What can go wrong between a command and the API, as errors whose message is the sentence a person reads."""

from typing import Any

from schemas.errors import HooktideError, Unavailable


class ApiUnreachable(Unavailable):
    """Nothing answered, or something that is not Hooktide did."""


class ApiRefusal(HooktideError):  # noqa: N818 - the name says whose error it is
    """The API answered with a problem.

    Args:
        status: of HTTP.
        problem: the body, as RFC 9457 has it; may be empty.
    """

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.code = str(problem.get("code", ""))
        self.problem = problem
        detail = str(problem.get("detail") or f"the API answered {status} and did not say why")
        lines = [detail]
        errors = problem.get("errors") or []
        if len(errors) > 1:  # one is in the detail already
            lines = ["the API refuses this:"]
            lines += [f"  {one.get('pointer') or 'the body'}: {one.get('detail')}" for one in errors]
        if status >= 500 and problem.get("request_id"):
            lines.append(f"  (request {problem['request_id']}: the server's log has more)")
        super().__init__("\n".join(lines))
