"""The operational errors, one small tree. Foreign exceptions are translated into it once, in the connector.

    HooktideError
    ├── BadInput             somebody gave us something we cannot take; the message says what to do
    │   ├── UnreadableRecord   a record or row of an unknown format or version
    │   └── BadSettings        a setting that is unknown or out of range
    ├── Unavailable          something we need is not there now; trying again is safe
    │   ├── LogUnavailable     the log did not acknowledge in time
    │   ├── StoreUnavailable   a store cannot be opened or written
    │   └── DiskFull           both of these at once: there is no space left where they write
    └── Refused              we will not go on, because going on could lose or repeat deliveries
        ├── DirectoryInUse     another process owns the data directory
        ├── FormatMismatch     a store or topic was made with other counts or a newer format
        └── DamagedStore       a store is damaged, and there is no second copy to heal it from
            └── DamagedShard     a running shard's store is; the next start fills a new one from the log

An endpoint that answers 500 is an `Outcome`, not an exception. A broken invariant of ours is an `assert`.
"""


class HooktideError(Exception):
    """Root of the operational errors. The message says what, with which values, and what to do next."""


class BadInput(HooktideError):  # noqa: N818 - the name says whose error it is
    """Somebody gave us something we cannot take."""


class UnreadableRecord(BadInput):
    """A record or a row has an unknown format, an unknown version, or is cut."""


class BadSettings(BadInput):
    """A setting is unknown, out of range, or contradicts another one."""


class Unavailable(HooktideError):  # noqa: N818 - as above
    """Something we need is not there now; trying again is safe."""


class LogUnavailable(Unavailable):
    """The log did not acknowledge in time; the write may or may not have happened."""


class StoreUnavailable(Unavailable):
    """A store cannot be opened or written (disk full, no permission)."""


class DiskFull(LogUnavailable, StoreUnavailable):
    """The file system (or a quota) has no space left: nothing is broken; with room it works again."""


class Refused(HooktideError):  # noqa: N818 - as above
    """Going on could lose or repeat deliveries, so we do not."""


class DirectoryInUse(Refused):
    """Another process owns the data directory."""


class FormatMismatch(Refused):
    """A store or a topic was made with other counts, or with a newer format."""


class DamagedStore(Refused):
    """A store is damaged and there is no second copy to heal it from."""


class DamagedShard(DamagedStore):
    """Damage was met in a shard's open store: the next start sets it aside and fills one from the log."""
