"""Which device fetches a file from the internet, so that it crosses the internet line once. PURE

Devices that lack one file elect the one that fetches it, by what each announces of itself; no coordinator takes part,
so that the election outlives one, and holds for files that several models or runs share.

The race: two devices ask each other, hear LACKS, and both fetch. Therefore each announces INTENDS first and asks all
others after that: of two that begin together, at least one sees the other. The smaller id goes; the larger one steps
back (WAITS). That alone is not enough: a device that sees a larger id at INTENDS cannot know whether that one asked
before this one had announced, saw nobody, and is about to fetch. So it waits for that one's decision: FETCHES or WAITS.
A device that goes announces FETCHES, and whoever asks later waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from agents.models.lan.protocol import Answer, FileStatus


@dataclass(frozen=True, slots=True)
class TakeFrom:
    """These devices have the file, and send it."""

    holders: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class WaitFor:
    """This device has the file but does not send it now, or fetches it, or comes before us."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class AwaitDecision:
    """This device comes after us, unless it fetches already: its next announcement tells which."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class FetchFromInternet:
    """Nobody has the file, and it is our turn."""


Step = TakeFrom | WaitFor | AwaitDecision | FetchFromInternet

_BY_PREFERENCE = (
    FileStatus.SERVES,
    FileStatus.FETCHES,
    FileStatus.READS,
    FileStatus.INTENDS,
    FileStatus.MEASURES,
)
"""Which of several devices is waited for: the one that is expected to send the file soonest."""


def next_step(answers: Sequence[Answer], own: str, given_up: Set[str]) -> Step:
    """What the device with the id ``own`` does next. ``given_up``: ids of devices that were waited for in vain."""
    holders = tuple(answer for answer in answers if answer.status is FileStatus.HAS)
    if holders:
        return TakeFrom(holders)
    # One that was given up while it fetched or measured has the file by now, where it says that it serves others.
    others = [
        answer for answer in answers if answer.peer.device_id not in given_up or answer.status is FileStatus.SERVES
    ]
    ahead = [answer for answer in others if _is_ahead(answer, own)]
    if ahead:
        return WaitFor(min(ahead, key=lambda answer: (_BY_PREFERENCE.index(answer.status), answer.peer.device_id)))
    undecided = [answer for answer in others if answer.status is FileStatus.INTENDS]
    return AwaitDecision(undecided[0]) if undecided else FetchFromInternet()


def _is_ahead(answer: Answer, own: str) -> bool:
    if answer.status is FileStatus.INTENDS:
        return answer.peer.device_id < own
    return answer.status in _BY_PREFERENCE
