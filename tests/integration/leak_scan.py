"""Looks for secrets in everything that a run wrote: files as they lie there, and what databases hold inside.

A secret is looked for in every form in which it could have been written by accident: as text, as the bytes
that sign, as base64 and hexadecimal of both, and inside a longer base64 text at any of its three alignments.
Compressed blocks are covered twice: random bytes stay literals in LZ4, and every RocksDB is opened and read
row by row as well.
"""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from rocksdict import AccessType, Options, Rdict

from operators.signing import SECRET_PREFIX

_MAIN_FAMILY = "default"


def forms_of(secret: str) -> set[bytes]:
    """Returns every form of a secret that is looked for.

    Args:
        secret: `whsec_` and base64, or a text such as the admin key.
    """
    core = secret.removeprefix(SECRET_PREFIX)
    wholes = {core.encode(), core.rstrip("=").encode()}
    if secret.startswith(SECRET_PREFIX):
        wholes.add(base64.b64decode(core))
    forms = set(wholes)
    for whole in wholes:
        forms |= {whole.hex().encode(), whole.hex().upper().encode()}
        for before in range(3):
            # The first and last characters also hold bits of what stands around the secret.
            inner = base64.b64encode(b"\0" * before + whole).rstrip(b"=")
            inner = inner[(before * 8 + 5) // 6 : len(inner) - 1]
            forms |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
        forms.add(json.dumps(whole.decode("latin-1")).strip('"').encode())
        forms.add(repr(whole)[2:-1].encode())
    return forms


class LeakScan:
    """Knows the secrets, and looks for them.

    Args:
        secrets: by a name that may be shown.
    """

    def __init__(self, secrets: dict[str, str]) -> None:
        self._forms = {name: sorted(forms_of(secret)) for name, secret in secrets.items()}
        shortest = min(len(form) for forms in self._forms.values() for form in forms)
        assert shortest >= 16, "a form that short is found by chance"

    def found_in(self, raw: bytes) -> set[str]:
        """Returns the names of the secrets that are in these bytes."""
        return {name for name, forms in self._forms.items() if any(form in raw for form in forms)}

    def found_below(self, directory: Path) -> set[tuple[str, str]]:
        """Returns each secret that a file or a database row below the directory holds, and where."""
        found = set()
        for file in sorted(directory.rglob("*")):
            if file.is_file():
                where = str(file.relative_to(directory))
                found |= {(name, where) for name in self.found_in(file.read_bytes())}
                if file.name == "CURRENT":
                    found |= self._found_in_rows(file.parent, str(file.parent.relative_to(directory)))
        return found

    def _found_in_rows(self, database: Path, where: str) -> set[tuple[str, str]]:
        return {(name, f"{where} row") for row in rows_of(database) for name in self.found_in(row)}


def rows_of(database: Path) -> Iterator[bytes]:
    """Yields every key and value of a RocksDB that nobody has open; it is read from a copy."""
    with TemporaryDirectory() as copy:
        shutil.copytree(database, copy, dirs_exist_ok=True)
        options = Options(raw_mode=True)
        if (Path(copy) / "wal").is_dir():  # where shards and the idempotency store keep it
            options.set_wal_dir(str(Path(copy) / "wal"))
        names = Rdict.list_cf(copy, options)
        families = {name: Options(raw_mode=True) for name in names if name != _MAIN_FAMILY}
        rows = Rdict(copy, options, column_families=families, access_type=AccessType.read_write())
        try:
            for name in names:
                family = rows if name == _MAIN_FAMILY else rows.get_column_family(name)
                for row in family.items():
                    for part in row:
                        assert isinstance(part, bytes), "opened raw"
                        yield part
        finally:
            rows.close()
