"""Whose turn it is to fetch a file from the internet, so that it crosses the line once. PURE

Every device announces INTENDS first and asks all others after that, so of two that begin together at least one sees
the other. The smaller id goes; the larger one steps back (WAITS). A device sees a larger id that still INTENDS: that
one may have asked before it could see this one, and be about to fetch; so its decision is awaited. A device that goes
announces FETCHES, and no one who asks later goes beside it.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from agents.models.lan.protocol import Answer, State


@dataclass(frozen=True, slots=True)
class Take:
    """These have the file, and send it."""

    holders: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class WaitFor:
    """This one has it, or fetches it, or goes before us."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Settle:
    """This one goes after us, if it does not go already: in a moment it says which."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class GoAlone:
    """Nobody has it, and it is our turn."""


Step = Take | WaitFor | Settle | GoAlone

_IN_ORDER = (State.SERVES, State.FETCHES, State.READS, State.INTENDS, State.MEASURES)


def next_step(answers: Sequence[Answer], own: str, given_up: Set[str]) -> Step:
    """What this device, ``own``, does next. ``given_up``: ids of devices that were waited for in vain."""
    holders = tuple(answer for answer in answers if answer.state is State.HAS)
    if holders:
        return Take(holders)
    others = [answer for answer in answers if answer.peer.device_id not in given_up or answer.state is State.SERVES]
    ahead = [answer for answer in others if _goes_first(answer, own)]
    if ahead:
        return WaitFor(min(ahead, key=lambda answer: (_IN_ORDER.index(answer.state), answer.peer.device_id)))
    undecided = [answer for answer in others if answer.state is State.INTENDS]
    return Settle(undecided[0]) if undecided else GoAlone()


def _goes_first(answer: Answer, own: str) -> bool:
    if answer.state is State.INTENDS:
        return answer.peer.device_id < own
    return answer.state in _IN_ORDER
