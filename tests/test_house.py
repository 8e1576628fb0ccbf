"""The house rules that no linter holds: the map names every file, the lock fits, the pure layers are pure."""

import ast
import datetime as dt
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from deploy.checks import REQUIRE_REAL, ROOT

PACKAGES = ("schemas", "operators", "dataflows", "api", "deploy")
PURE_PACKAGES = ("operators", "schemas")
LINES_MAX = 400
FUNCTION_LINES_MAX = 70
IMPURE_BUILTINS = {"open", "input", "print", "hash", "id", "eval", "exec", "__import__"}
"""What ruff cannot ban by name. `hash` is seeded per process, `id` is an address."""


def _modules(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def _named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text())


def test_the_map_names_every_module() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    modules = [_named(path) for path in _modules(*PACKAGES) if path.name != "__init__.py"]

    assert modules
    assert [name for name in modules if f"`{name}`" not in text] == []


def test_the_map_names_no_module_that_is_gone() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = re.findall(rf"`((?:{'|'.join(PACKAGES)})/[\w/]+\.py)`", text)

    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_an_init_holds_at_most_one_docstring() -> None:
    wordy = [
        _named(path)
        for path in _modules(*PACKAGES)
        if path.name == "__init__.py" and len(ast.parse(path.read_text()).body) > 1
    ]

    assert wordy == []


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in _modules(*PACKAGES)}

    assert [_named(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_tests_are_no_package() -> None:
    assert [
        _named(path) for path in (ROOT / "tests").rglob("__init__.py") if "node_modules" not in path.parts
    ] == []


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    lengths = {_named(path): len(path.read_text().splitlines()) for path in _modules(*PACKAGES)}

    assert {name: lines for name, lines in lengths.items() if lines > LINES_MAX} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    lengths = {
        f"{_named(path)}:{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in _modules(*PACKAGES)
        for function in _functions(path)
    }

    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}


def test_no_module_has_a_name_that_means_anything() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "manager", "service", "base", "misc"}

    assert [_named(path) for path in _modules(*PACKAGES) if vague & {path.stem, path.parent.name}] == []


@pytest.mark.parametrize("package", PURE_PACKAGES)
@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "import os.path",
        "import random",
        "from uuid import uuid4",
        "import asyncio",
        "import structlog",
        "import bytewax.dataflow",
        "import rocksdict",
        "import datetime\n\nNOW = datetime.datetime.now(datetime.UTC)",
    ],
)
def test_the_lint_refuses_clock_chance_and_io_in_pure_packages(package: str, line: str) -> None:
    assert "TID251" in _lint(package, line)


def test_the_lint_lets_the_same_line_pass_at_the_edge() -> None:
    assert "TID251" not in _lint("deploy", "import time")


def _lint(package: str, line: str) -> str:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise"]
    command += ["--stdin-filename", str(ROOT / package / "planted.py"), "-"]
    done = subprocess.run(command, cwd=ROOT, input=line + "\n", text=True, capture_output=True, check=False)
    return done.stdout


def test_pure_packages_call_no_impure_builtin() -> None:
    calls = [
        f"{_named(path)}:{node.lineno} {node.func.id}"
        for path in _modules(*PURE_PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_BUILTINS
    ]

    assert calls == []


def test_the_lock_was_made_from_this_pyproject() -> None:
    project = _toml("pyproject.toml")
    locked = next(package for package in _toml("uv.lock")["package"] if package["name"] == "hooktide")
    wanted = {"": project["project"]["dependencies"], **project["dependency-groups"]}
    held = {"": locked["metadata"]["requires-dist"], **locked["metadata"]["requires-dev"]}

    assert {group: {_written(entry) for entry in entries} for group, entries in held.items()} == {
        group: {line.replace(" ", "") for line in lines} for group, lines in wanted.items()
    }


def _written(entry: dict[str, Any]) -> str:
    extras = f"[{','.join(entry['extras'])}]" if entry.get("extras") else ""
    return f"{entry['name']}{extras}{entry.get('specifier', '')}"


def test_the_runtime_stays_small() -> None:
    packages = {package["name"]: package for package in _toml("uv.lock")["package"]}
    runtime: set[str] = set()
    waiting = [entry["name"] for entry in packages["hooktide"]["dependencies"]]
    while waiting:
        name = waiting.pop()
        if name not in runtime:
            runtime.add(name)
            waiting += [entry["name"] for entry in packages[name].get("dependencies", [])]

    assert {"aiohttp", "bytewax", "pyarrow"} <= runtime
    assert (
        runtime & {"pandas", "numpy", "jupyter", "notebook", "playwright", "pytest", "mypy", "ruff"} == set()
    )


def test_a_missing_real_component_skips_here_and_fails_in_ci(
    require_real: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REQUIRE_REAL, "0")
    with pytest.raises(pytest.skip.Exception, match="unobtainium is not here; get it with: dig"):
        require_real("unobtainium", found=False, how_to_get="dig")
    monkeypatch.setenv(REQUIRE_REAL, "1")
    with pytest.raises(pytest.fail.Exception, match="unobtainium is not here; get it with: dig"):
        require_real("unobtainium", found=False, how_to_get="dig")
    require_real("unobtainium", found=True, how_to_get="dig")


@pytest.mark.real_node
def test_the_npm_verifier_accepts_what_the_pypi_package_signs(node_project: Path) -> None:
    script = """
        const { Webhook } = require("standardwebhooks");
        const { secret, body, headers } = JSON.parse(require("fs").readFileSync(0, "utf8"));
        new Webhook(secret).verify(body, headers);
        try { new Webhook(secret).verify(body + " ", headers); }
        catch { console.log("refused the altered body"); }
    """
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run(
        [node, "-e", script], cwd=node_project, input=_signed(), text=True, capture_output=True, check=False
    )

    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "refused the altered body", "")


def _signed() -> str:
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", '{"type":"order.created"}'
    now = dt.datetime.now(dt.UTC)
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("evt_1", now, body),
    }
    return json.dumps({"secret": secret, "body": body, "headers": headers})
