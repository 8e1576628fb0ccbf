"""The named code points at which a victim can be killed: the moments between which a promise could fall.

A random kill meets a window of microseconds about never; these are met on purpose. Each stands between two
steps of which the second undoes a danger of the first.
"""

from enum import StrEnum


class Point(StrEnum):
    """Where the process ends; the order is a delivery's way."""

    AFTER_SEND = "after_send_before_outcome"
    """Answered, and the engine has not been told: the sender holds the outcome."""
    BEFORE_WRITE = "after_outcome_before_write"
    """The engine has judged the outcome, and its batch has not been written."""
    BARRIER_BEFORE_WRITE = "in_barrier_before_write"
    """Rows and position of a barrier are gathered, and not written."""
    BARRIER_AFTER_WRITE = "in_barrier_after_write"
    """The barrier is written; neither synced nor mirrored to the group."""
    APPEND_BEFORE_SYNC = "in_log_append_before_sync"
    """The log's group is written, and not synced: nobody was told, whoever waits may try again."""
    APPEND_AFTER_SYNC = "in_log_append_after_sync"
    """The log's group is durable, and nobody was told."""
    BEFORE_PUBLISH = "after_write_before_publish"
    """The outcome is in the store, and its transition is not on its way to the log."""
    BEFORE_TRIM = "between_publish_and_trim"
    """The log holds the transition, and the outbox still does."""


PASSAGES_MAX = 8
"""A run draws the passage from 1 to this, after a time under load that it draws too."""
