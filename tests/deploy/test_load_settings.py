"""Settings: which source wins, and what is said about a mistake."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.process.load_settings import ENV_PREFIX, Flag, environment_name, known_names, load_settings
from schemas.errors import BadSettings
from schemas.settings import Settings


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def faults(*flags: Flag, config: Path | None = None) -> list[str]:
    with pytest.raises(BadSettings) as refused:
        load_settings(flags, config)
    return str(refused.value).splitlines()


def test_without_any_source_the_defaults_hold() -> None:
    assert load_settings() == Settings()


def test_flags_win_over_the_environment_and_that_over_the_file(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_directory / "hooktide.toml").write_text(
        'data = "file"\n[api]\nport = 1\n[egress]\nslots = 1\n[log]\nshards = 3\n'
    )
    monkeypatch.setenv("HOOKTIDE__API__PORT", "2")
    monkeypatch.setenv("HOOKTIDE__EGRESS__SLOTS", "2")

    settings = load_settings((Flag("api.port", "--port", 3), Flag("data", "--data", None)))

    assert (settings.api.port, settings.egress.slots, settings.log.shards) == (3, 2, 3)
    assert settings.data == "file"


@pytest.mark.parametrize("text", ["[1000, 2000]", "1000,2000", "1000, 2000"])
def test_a_list_in_the_environment_is_json_or_has_commas(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKTIDE__RETRY__DELAYS_MS", text)

    assert load_settings().retry.delays_ms == (1_000, 2_000)


def test_a_list_of_one_needs_no_comma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKTIDE__RETRY__DELAYS_MS", "50")

    assert load_settings().retry.delays_ms == (50,)


@pytest.mark.parametrize("name", known_names())
def test_every_setting_can_be_set_in_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment_name(name), "{")  # fits no setting but texts

    try:
        settings = load_settings()
    except BadSettings as refused:
        assert str(refused).startswith(name)  # noqa: PT017 - most are refused, texts are not
    else:
        value: object = settings
        for part in name.split("."):
            value = getattr(value, part)
        assert value == "{"


def test_an_unknown_name_is_a_fault_in_every_source(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_directory / "hooktide.toml").write_text("[api]\nprot = 1\n[deliever]\nbarrier_ms = 1\n")
    monkeypatch.setenv("HOOKTIDE__EGRESS__SLOT", "1")
    monkeypatch.setenv("HOOKTIDE__SLOTS", "1")
    monkeypatch.setenv("hooktide__nothing_like_it", "1")

    assert set(faults()) == {
        "api.prot (from hooktide.toml) is no setting; did you mean api.port?",
        "deliever (from hooktide.toml) is no setting; did you mean deliver?",
        "egress.slot (from HOOKTIDE__EGRESS__SLOT) is no setting; did you mean egress.slots?",
        "slots (from HOOKTIDE__SLOTS) is no setting; did you mean egress.slots?",
        "nothing_like_it (from hooktide__nothing_like_it) is no setting; docs/settings.md lists them all",
    }


def test_names_of_others_in_the_environment_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKTIDE_REQUIRE_REAL", "1")
    monkeypatch.setenv("HOOKTIDE_KEY", "hk_x")

    assert load_settings() == Settings()


def test_a_wrong_value_is_named_with_its_origin_and_what_it_must_be(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_directory / "other.toml").write_text('[api]\nport = "many"\n')
    monkeypatch.setenv("HOOKTIDE__RETRY__DELAYS_MS", "5,-5")

    named = faults(Flag("log.shards", "--shards", 0), config=Path("other.toml"))

    assert len(named) == 3
    assert named[0].startswith("api.port = 'many' (from other.toml) is not right: it must be a valid integer")
    assert named[1] == "log.shards = 0 (from --shards) is not right: it must be greater than or equal to 1"
    assert named[2].startswith("retry.delays_ms = ['5', '-5'] (from HOOKTIDE__RETRY__DELAYS_MS) is not right")


def test_a_section_is_no_value(empty_directory: Path) -> None:
    (empty_directory / "hooktide.toml").write_text("api = 8400\n")

    assert faults() == [
        "api (from hooktide.toml) is a section: write api.host or another one of its settings"
    ]


def test_a_secret_never_stands_in_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "c2VjcmV0"
    monkeypatch.setenv("HOOKTIDE__MASTER_KEY", secret)
    assert load_settings().master_key == secret

    named = faults(Flag("master_key", "--master-key", 7), Flag("api.port", "--port", -1))

    assert [secret in line or "= 7" in line for line in named] == [False, False]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"[api", "is not TOML"), (b"\xff", "is not text in UTF-8"), (None, "cannot be read")],
)
def test_a_file_that_cannot_be_read_is_a_fault(
    empty_directory: Path, content: bytes | None, says: str
) -> None:
    file = empty_directory / "given.toml"
    if content is not None:
        file.write_bytes(content)

    (named,) = faults(config=file)

    assert "given.toml" in named
    assert says in named


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", ""])
def test_only_loopback_is_listened_on(host: str) -> None:
    (named,) = faults(Flag("api.host", "--host", host))

    assert "loopback only" in named


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_every_loopback_is_fine(host: str) -> None:
    assert load_settings((Flag("api.host", "--host", host),)).api.host == host


def test_a_stop_too_short_for_any_attempt_is_refused() -> None:
    (named,) = faults(Flag("deliver.stop_deadline_ms", "--stop", 5_000))

    assert "must be at least 5100" in named


def test_a_log_elsewhere_is_refused() -> None:
    (named,) = faults(Flag("log.url", "--log", "kafka://localhost:9092"))

    assert named.startswith("log.url = 'kafka://localhost:9092'")


@given(st.sampled_from(known_names()))
def test_names_go_to_the_environment_and_back(name: str) -> None:
    spelled = environment_name(name)

    assert spelled.startswith(ENV_PREFIX)
    assert spelled.removeprefix(ENV_PREFIX).lower().replace("__", ".") == name
