"""An answer that promises durability comes after the sync: shown on the system calls of the real process."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.system_calls import SYNCS, WRITES, AttachedTrace, Call, parse, read_trace
from tests.integration.answers_after_sync import Verdict, judge
from tests.integration.hooktide_process import HooktideProcess

PORT = 8400
WAL = "/data/log/db/000004.log"
CLIENT = f"TCP:[127.0.0.1:{PORT}->127.0.0.1:40000]"
ALONE = 12
TOGETHER = 60
AT_ONCE = 6
SYNC_DELAY_MS = 15
"""An answer that does not wait for the sync would often come after it by luck: a sync takes 0.2 ms here."""


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("strace")
class TestTheRealProcess:
    def test_every_202_and_201_comes_after_the_sync_of_its_record(self, hooktide: HooktideProcess) -> None:
        verdict = _traced(hooktide)

        assert verdict.judged == 2 * ALONE + TOGETHER + 2
        assert verdict.violations == []

    def test_a_process_that_does_not_sync_is_caught(self, hooktide: HooktideProcess) -> None:
        hooktide.module = "tests.integration.unsynced_up"

        verdict = _traced(hooktide)

        assert len(verdict.violations) == verdict.judged > TOGETHER


def _traced(process: HooktideProcess) -> Verdict:
    """Publishes under strace, one by one and many at once, with keys and without, and judges the answers."""
    process.start()
    trace, texts = process.directory / "trace", dict[str, str]()

    def publish(number: int) -> tuple[str, str]:
        text = f"text-{number:05d}-of-this-event"
        key = f"key-{number}" if number % 2 else None
        return str(process.publish({"text": text}, key=key)["id"]), text

    with AttachedTrace(process.process.pid, trace, (*WRITES, *SYNCS), SYNC_DELAY_MS):
        for number in range(ALONE):
            if number % 6 == 0:
                endpoint = process.create_endpoint("http://127.0.0.1:9/", ["never.sent"])["id"]
                texts[endpoint] = endpoint
            texts.update([publish(number)])
        with ThreadPoolExecutor(AT_ONCE) as pool:
            texts.update(pool.map(publish, range(ALONE, ALONE + TOGETHER)))
        for number in range(ALONE):  # with a key: the first answer again; without one: another event
            event, text = publish(number)
            texts.setdefault(event, text)
        # A client may have its answer before strace has seen the write return, and strace leaves a call that
        # has not returned when it detaches without its result. The API's one thread answers this after it.
        assert process.api("GET", "/livez").status == 200
    port = int(process.url.rpartition(":")[2])
    process.kill()
    return judge(read_trace(trace), port, texts)


def _script(*lines: str) -> Iterator[Call]:
    return parse(f"{line}\n" for line in lines)


def _write(data: str, *, thread: int = 7) -> str:
    return f'{thread} write(8<{WAL}>, "{data}", {len(data)}) = {len(data)}'


def _answer(event: str = "evt_1", status: str = "202 Accepted", client: str = CLIENT) -> str:
    body = f'{{\\"id\\":\\"{event}\\"}}'
    length = len(body.replace("\\", ""))
    text = f"HTTP/1.1 {status}\\r\\nContent-Type: x\\r\\nContent-Length: {length}\\r\\nX: y\\r\\n\\r\\n{body}"
    return f'9 write(20<{client}>, "{text}", 9999) = 9999'


SYNC = f"7 fdatasync(8<{WAL}>) = 0"
TEXTS = {"evt_1": "the text"}


class TestTheJudge:
    """On hand-written traces."""

    def _violations(self, *lines: str) -> list[str]:
        verdict = judge(_script(*lines), PORT, TEXTS)
        assert verdict.judged == 1
        return verdict.violations

    def test_write_sync_answer_is_right(self) -> None:
        assert self._violations(_write("..the text.."), SYNC, _answer()) == []

    def test_an_answer_before_the_sync_is_caught(self) -> None:
        assert "no sync" in self._violations(_write("..the text.."), _answer(), SYNC)[0]

    def test_an_answer_before_the_write_is_caught(self) -> None:
        assert "answered at line 2" in self._violations(SYNC, _answer(), _write("the text"), SYNC)[0]

    def test_an_answer_without_a_record_is_caught(self) -> None:
        assert "never written" in self._violations(_write("another text"), SYNC, _answer())[0]

    def test_a_sync_that_began_before_the_write_does_not_count(self) -> None:
        began, ended = f"6 fdatasync(8<{WAL}> <unfinished ...>", "6 <... fdatasync resumed>) = 0"
        assert "no sync" in self._violations(began, _write("the text"), ended, _answer())[0]

    def test_a_sync_that_has_not_returned_does_not_count(self) -> None:
        began, ended = f"6 fdatasync(8<{WAL}> <unfinished ...>", "6 <... fdatasync resumed>) = 0"
        assert "no sync" in self._violations(_write("the text"), began, _answer(), ended)[0]
        assert self._violations(_write("the text"), began, ended, _answer()) == []

    def test_a_sync_that_failed_does_not_count(self) -> None:
        failed = f"7 fdatasync(8<{WAL}>) = -1 EIO (Input/output error)"
        assert "no sync" in self._violations(_write("the text"), failed, _answer())[0]

    def test_a_sync_of_another_file_does_not_count(self) -> None:
        other = "7 fdatasync(9</data/shards/0001/wal/000004.log>) = 0"
        assert "no sync" in self._violations(_write("the text"), other, _answer())[0]

    def test_a_write_that_returned_after_the_sync_began_is_not_covered(self) -> None:
        began = f'6 write(8<{WAL}>, "the text", 8 <unfinished ...>'
        ended = "6 <... write resumed>) = 8"
        assert "no sync" in self._violations(began, SYNC, ended, _answer())[0]

    def test_the_first_byte_of_an_answer_counts_also_when_it_comes_in_pieces(self) -> None:
        whole = _answer()
        at = whole.index("Content-Type")
        head = f'9 write(20<{CLIENT}>, "{whole[whole.index("HTTP") : at]}", 99) = 99'
        rest = f'9 write(20<{CLIENT}>, "{whole[at:]}'
        assert "no sync" in self._violations(_write("the text"), head, SYNC, rest)[0]
        assert self._violations(_write("the text"), SYNC, head, rest) == []

    def test_a_text_is_found_across_the_blocks_of_the_log(self) -> None:
        header = r"\1\2\3\4\5\6\7"
        torn = f'7 write(8<{WAL}>, "the{header} text", 15) = 15'
        assert self._violations(torn, SYNC, _answer()) == []

    def test_a_sync_that_strace_delayed_is_a_sync(self) -> None:
        delayed = f"7 fdatasync(8<{WAL}>) = 0 (DELAYED)"
        assert self._violations(_write("the text"), delayed, _answer()) == []

    def test_gathered_writes_and_sends_are_read_too(self) -> None:
        pieces = '[{iov_base="..the ", iov_len=6}, {iov_base="text", iov_len=4}]'
        gathered = f"7 writev(8<{WAL}>, {pieces}, 2) = 10"
        sent = _answer().replace("write(", "sendto(").replace(", 9999)", ", 9999, MSG_NOSIGNAL, NULL, 0)")
        assert self._violations(gathered, SYNC, sent) == []
        assert "no sync" in self._violations(gathered, sent, SYNC)[0]

    def test_other_answers_and_other_ports_are_not_judged(self) -> None:
        lines = (
            _answer(status="200 OK"),
            _answer(status="503 Service Unavailable"),
            _answer(client="TCP:[127.0.0.1:9999->127.0.0.1:40000]"),
        )
        assert judge(_script(*lines), PORT, TEXTS) == Verdict(0, [])


def test_bytes_come_back_as_they_were_written(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text(r'1 12:00:00.000001 write(3</a b>, "\0\1x\377\"\\\n\0011", 9) = 8' + "\n")
    (call,) = read_trace(trace)
    assert call.data == b'\x00\x01x\xff"\\\n\x01'
    assert (call.descriptor, call.target, call.result) == (3, "/a b", 8)
