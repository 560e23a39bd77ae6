"""One file from another device of the cluster; else it is this device's turn to fetch it from the internet."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agents.contract.model_peers import Peer, Peers
from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.files import rename_durably
from agents.models.lan.announcement import Announcement, announced
from agents.models.lan.client import Line, NotNow
from agents.models.lan.election import GoAlone, Settle, Take, WaitFor, next_step
from agents.models.lan.protocol import Answer, SharedFile, State, at_address, by_contents
from agents.models.lan.shared_files import keep_origin, offer
from agents.models.progress import Progress, Say
from agents.models.store.disk import keep_digest, need_room, sha256_of, size_of
from agents.models.store.transfer import Sender, Stopped, partial_of, receive, verified
from agents.units import in_words

_SILENT = 3  # answers in a row that do not come, until a device that was waited for is taken for gone
_FAILURES = 3  # without a byte, until a device is asked no more for this file


@dataclass(frozen=True, slots=True)
class Pace:
    """How long what is waited for, in seconds. ``wait`` and ``now`` are the clock."""

    poll_s: float = 1.0
    measuring_poll_s: float = 5.0  # each question is a little work for a device that measures
    settle_s: float = 0.1
    settled_s: float = 10.0  # for one that does not decide: it asks devices that are gone
    stalled_s: float = 60.0  # for one that fetches, without a sign that it goes on
    measuring_s: float = 600.0  # for one that has the file and measures; without end where there is no other way
    serving_s: float = 5.0  # then all are asked again: others have it by now
    wait: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic

    def between(self, state: State) -> float:
        """Seconds between two questions to a device that is in ``state``."""
        return self.measuring_poll_s if state is State.MEASURES else self.poll_s


PACE = Pace()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file. ``key`` is what it is announced by: its SHA-256, or where that is not known the key of its address."""

    name: str  # for people
    target: Path
    key: str
    sha256: str | None = None
    size_bytes: int | None = None

    @property
    def question(self) -> str:
        return at_address(self.key) if self.sha256 is None else by_contents(self.sha256)


FromInternet = Callable[[Say], None]


def fetch_once(wanted: Wanted, store: Path, peers: Peers | None, say: Say, from_internet: FromInternet) -> None:
    """Puts the file at its target: from another device, else by ``from_internet``, which is handed a ``say``.

    The others may have it before the announcement ends: at no moment does this device seem not to have it.
    Raises LoadFailed, what ``from_internet`` raises, and OSError.
    """
    if peers is None:
        from_internet(say)
        return
    with announced(store, wanted.key, partial_of(wanted.target)) as announcement:
        if not fetch_from_peers(wanted, peers, announcement, say):
            announcement.now(State.FETCHES)
            from_internet(announcement.beating(say))
        sha256 = sha256_of(wanted.target, say)
        offer(store, wanted.target, sha256)
        if wanted.sha256 is None:
            keep_origin(store, wanted.key, (SharedFile(wanted.target.name, size_of(wanted.target), sha256),))


def fetch_from_peers(
    wanted: Wanted, peers: Peers, announcement: Announcement, say: Say, *, other_way: bool = True
) -> bool:
    """Whether another device had the file, which is then at its target, verified. False: it is our turn to fetch it.

    ``other_way`` False: there is no internet to go to; then a device that measures is waited for without end.
    Raises LoadFailed (DISK_FULL, CANCELLED by ``say``), OSError.
    """
    with Line(peers.token) as line:
        return _Fetch(wanted, peers, announcement, say, line, other_way).run()


class _Fetch:
    def __init__(
        self, wanted: Wanted, peers: Peers, announcement: Announcement, say: Say, line: Line, other_way: bool
    ) -> None:
        self._wanted = wanted
        self._own = peers.own
        self._peers = [peer for peer in peers.urls if peer.device_id != peers.own]
        self._announcement = announcement
        self._say = say
        self._line = line
        self._pace = PACE
        self._other_way = other_way
        self._failures: dict[str, int] = {}
        self._given_up: set[str] = set()
        self._undecided_since: float | None = None
        self._stage = State.INTENDS
        self._asked_before = False

    def run(self) -> bool:
        while True:
            self._announce(State.INTENDS)
            step = next_step(self._ask(), self._own, self._given_up)
            if not isinstance(step, Settle):
                self._undecided_since = None
            match step:
                case Take(holders):
                    self._announce(State.WAITS)
                    if self._take_one(holders):
                        return True
                case WaitFor(answer):
                    self._announce(State.WAITS)
                    self._wait_for(answer)
                case Settle(answer):
                    self._settle(answer)
                case GoAlone():
                    return False

    def _announce(self, state: State) -> None:
        if state is not self._stage:
            self._announcement.now(state)
            self._stage = state

    def _ask(self) -> list[Answer]:
        """What all say that answer. Those that do not answer the first time are not asked again: they find us."""
        answers = self._line.ask_all(self._peers, self._wanted.question)
        silent = [answer for answer in answers if answer.refusal]
        if silent and not self._asked_before:
            words = ", ".join(f"{answer.peer.shown} {answer.refusal}" for answer in silent[:3])
            more = f" and {len(silent) - 3} more" if len(silent) > 3 else ""
            self._say(f"asking other devices for {self._wanted.name}: {words}{more}")
            self._peers = [answer.peer for answer in answers if not answer.refusal]
        self._asked_before = True
        return [answer for answer in answers if not answer.refusal]

    def _wait_for(self, answer: Answer) -> None:
        """Returns when ``answer`` is another one, or has been waited for long enough."""
        peer, state = answer.peer, answer.state
        begun = changed = self._pace.now()
        seen = (answer.bytes_so_far, answer.beat)
        silent = 0
        while answer.state is state or 0 < silent < _SILENT:
            self._say(_why_we_wait(answer, self._wanted))
            self._pace.wait(self._pace.between(state))
            answer = self._line.ask(peer, self._wanted.question)
            now = self._pace.now()
            silent = silent + 1 if answer.refusal else 0
            if not silent and (answer.bytes_so_far, answer.beat) != seen:
                seen, changed = (answer.bytes_so_far, answer.beat), now
            if state is State.SERVES and now - begun > self._pace.serving_s:
                return
            if now - changed > self._patience_s(state):
                self._given_up.add(peer.device_id)
                self._say(f"{peer.shown} was waited for {now - changed:.0f} s in vain")
                return

    def _patience_s(self, state: State) -> float:
        if state in (State.MEASURES, State.READS):
            return self._pace.measuring_s if self._other_way else math.inf
        return math.inf if state is State.SERVES else self._pace.stalled_s

    def _settle(self, answer: Answer) -> None:
        now = self._pace.now()
        self._undecided_since = now if self._undecided_since is None else self._undecided_since
        if now - self._undecided_since > self._pace.settled_s:
            self._given_up.add(answer.peer.device_id)
            self._undecided_since = None
        self._pace.wait(self._pace.settle_s)

    def _take_one(self, holders: tuple[Answer, ...]) -> bool:
        """From the first that sends it. Each device begins with another one, so that none has to serve all."""
        for answer in sorted(holders, key=lambda holder: _place(self._own, holder.peer)):
            if self._take(answer):
                return True
        self._pace.wait(self._pace.poll_s)
        return False

    def _take(self, answer: Answer) -> bool:
        peer, target = answer.peer, self._wanted.target
        size_bytes, sha256 = answer.bytes_so_far, self._wanted.sha256
        if sha256 is None:
            size_bytes, sha256 = answer.files[0].size_bytes, answer.files[0].sha256
        if self._wanted.size_bytes not in (None, size_bytes):
            return self._drop(peer, f"has {size_bytes:,} bytes instead of {self._wanted.size_bytes:,}")
        partial = partial_of(target)
        begun_bytes = size_of(partial)
        need_room(target.parent, max(0, size_bytes - begun_bytes), self._wanted.name)
        progress = Progress(self._say, f"fetching {self._wanted.name} from {peer.shown}", size_bytes)
        sender = Sender(lambda start: self._line.contents(peer, sha256, start), reconnects=1)
        try:
            receive(sender, partial, size_bytes, progress.at)
        except (NotNow, Stopped, ValueError) as why:
            return self._failed(peer, why, size_of(partial) > begun_bytes)
        try:
            verified(partial, size_bytes, sha256, f"{self._wanted.name} from {peer.shown}", self._say)
        except LoadFailed as error:
            if error.cause is not Cause.MODEL_FILE_INVALID:
                raise
            # What was begun elsewhere may be what is wrong: then it is fetched whole before a device is blamed.
            return False if begun_bytes else self._drop(peer, "sent other bytes than it said")
        rename_durably(partial, target)
        keep_digest(target, sha256)
        return True

    def _failed(self, peer: Peer, why: Exception, came: bool) -> bool:
        turned_away = isinstance(why, NotNow) and why.for_a_while
        self._failures[peer.device_id] = 0 if came or turned_away else self._failures.get(peer.device_id, 0) + 1
        return self._failures[peer.device_id] >= _FAILURES and self._drop(peer, f"does not send it ({why})")

    def _drop(self, peer: Peer, why: str) -> bool:
        """Always False: nothing was had."""
        self._peers = [each for each in self._peers if each.device_id != peer.device_id]
        self._say(f"{peer.shown} {why}: {self._wanted.name} is not taken from there")
        return False


def _place(own: str, peer: Peer) -> str:
    return hashlib.sha256(f"{own} {peer.device_id}".encode()).hexdigest()


def _why_we_wait(answer: Answer, wanted: Wanted) -> str:
    peer = answer.peer.shown
    of_all = f" of {in_words(wanted.size_bytes)}" if wanted.size_bytes else ""
    match answer.state:
        case State.SERVES:
            return f"waiting for {peer}, which sends {wanted.name} to others"
        case State.MEASURES:
            return f"waiting for {peer}, which has {wanted.name} and measures now"
        case State.READS:
            return f"waiting for {peer}, which checks {wanted.name}: {in_words(answer.bytes_so_far)}"
        case _:
            return f"waiting for {peer} to fetch {wanted.name}: {in_words(answer.bytes_so_far)}{of_all}"
