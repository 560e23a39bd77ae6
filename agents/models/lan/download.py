"""Downloads one file from another device of the cluster; from the internet where none has it and it is our turn.

Who goes to the internet: ``election``. How the others learn of it: ``announcement``. What is there for them afterwards:
``shared_files``. All is asked anew after each wait, for meanwhile any device may have got the file, or have gone.
"""

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
from agents.models.lan.announcement import Announcement, announcing
from agents.models.lan.client import PeerClient, SendingRefused
from agents.models.lan.election import (
    AwaitDecision,
    FetchFromInternet,
    TakeFrom,
    WaitFor,
    next_step,
)
from agents.models.lan.protocol import (
    Answer,
    FileStatus,
    SharedFile,
    address_query,
    contents_query,
)
from agents.models.lan.shared_files import record_origin, share
from agents.models.progress import ByteProgress, Notify
from agents.models.store.disk import need_room, record_sha256, sha256_of, size_of
from agents.models.store.transfer import Sender, TransferStopped, partial_of, receive, verify_partial
from agents.units import format_size

_MAX_SILENT = 3  # questions in a row without an answer, after which a device that was waited for counts as gone
_MAX_FAILURES = 3  # transfers in a row without a byte, after which a device is asked no more for this file


@dataclass(frozen=True, slots=True)
class Pace:
    """How long what is waited for, in seconds. ``wait`` and ``now`` are the clock, which tests replace."""

    poll_s: float = 1.0
    measuring_poll_s: float = 5.0  # longer: each question costs a device that measures a little work
    decision_poll_s: float = 0.1
    decision_s: float = 10.0  # for one that stays at INTENDS: it may be asking devices that are gone
    stalled_s: float = 60.0  # for one that fetches, without a byte or a beat
    # For one that has the file and measures; without limit for a file that is on devices alone.
    measuring_s: float = 600.0
    serving_s: float = 5.0  # for one that sends to others; then all are asked again, for those have the file by now
    wait: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic

    def poll_interval_s(self, status: FileStatus) -> float:
        """Seconds between two questions to a device that is in ``state``."""
        return self.measuring_poll_s if status is FileStatus.MEASURES else self.poll_s


PACE = Pace()


@dataclass(frozen=True, slots=True)
class WantedFile:
    """The file to download. ``key``, under which it is announced, is its SHA-256, else the hash of its address."""

    name: str  # for people
    target: Path
    key: str
    sha256: str | None = None
    size_bytes: int | None = None

    @property
    def question(self) -> str:
        return address_query(self.key) if self.sha256 is None else contents_query(self.sha256)


InternetDownload = Callable[[Notify], None]


def download_once(
    wanted: WantedFile, store: Path, peers: Peers | None, notify: Notify, from_internet: InternetDownload
) -> None:
    """Puts the file at its target, from another device or by ``from_internet``, and hands it out from then on.

    ``from_internet`` is called with the ``notify`` to use. Raises LoadFailed, what ``from_internet`` raises, OSError.
    """
    if peers is None:
        from_internet(notify)
        return
    with announcing(store, wanted.key, partial_of(wanted.target)) as announcement:
        if not download_from_peers(wanted, peers, announcement, notify):
            announcement.announce(FileStatus.FETCHES)
            from_internet(announcement.with_beat(notify))
        # Shared before the announcement is withdrawn: at no moment does this device seem to lack the file.
        sha256 = sha256_of(wanted.target, notify)
        share(store, wanted.target, sha256)
        if wanted.sha256 is None:
            record_origin(store, wanted.key, (SharedFile(wanted.target.name, size_of(wanted.target), sha256),))


def download_from_peers(
    wanted: WantedFile, peers: Peers, announcement: Announcement, notify: Notify, *, has_internet: bool = True
) -> bool:
    """True: the file is at its target, verified, from another device. False: it is our turn to go to the internet.

    ``has_internet`` False: the file is on devices alone; then one that measures is waited for without limit.
    Raises LoadFailed (DISK_FULL, CANCELLED by ``notify``), OSError.
    """
    with PeerClient(peers.token) as client:
        return _PeerDownload(wanted, peers, announcement, notify, client, has_internet).run()


class _PeerDownload:
    def __init__(
        self,
        wanted: WantedFile,
        peers: Peers,
        announcement: Announcement,
        notify: Notify,
        client: PeerClient,
        has_internet: bool,
    ) -> None:
        self._wanted = wanted
        self._own = peers.own
        self._peers = [peer for peer in peers.peers if peer.device_id != peers.own]
        self._announcement = announcement
        self._notify = notify
        self._client = client
        self._pace = PACE
        self._has_internet = has_internet
        self._failures: dict[str, int] = {}
        self._given_up: set[str] = set()
        self._announced_status = FileStatus.INTENDS  # ``announcing`` has begun with it
        self._asked_before = False

    def run(self) -> bool:
        while True:
            # Before the others are asked: of two that begin at once, the one that asks last then sees the other.
            self._announce(FileStatus.INTENDS)
            match next_step(self._ask(), self._own, self._given_up):
                case TakeFrom(holders):
                    self._announce(FileStatus.WAITS)
                    if self._download_from_any(holders):
                        return True
                # One that waits is no rival any more: it must not keep others from the internet.
                case WaitFor(answer):
                    self._announce(FileStatus.WAITS)
                    self._wait_for(answer)
                case AwaitDecision(answer):
                    self._await_decision(answer)
                case FetchFromInternet():
                    return False

    def _announce(self, status: FileStatus) -> None:
        if status is not self._announced_status:
            self._announcement.announce(status)
            self._announced_status = status

    def _ask(self) -> list[Answer]:
        """The answers of all that answer. One that does not answer the first question is asked no more; where it
        comes back, it asks us."""
        answers = self._client.ask_all(self._peers, self._wanted.question)
        silent = [answer for answer in answers if answer.refusal]
        if silent and not self._asked_before:
            words = ", ".join(f"{answer.peer.shown} {answer.refusal}" for answer in silent[:3])
            more = f" and {len(silent) - 3} more" if len(silent) > 3 else ""
            self._notify(f"asking other devices for {self._wanted.name}: {words}{more}")
            self._peers = [answer.peer for answer in answers if not answer.refusal]
        self._asked_before = True
        return [answer for answer in answers if not answer.refusal]

    def _wait_for(self, answer: Answer) -> None:
        """Returns when the device has another status than in ``answer``, or its time is over."""
        peer, status = answer.peer, answer.status
        begun = changed = self._pace.now()
        seen = (answer.bytes_so_far, answer.beat)
        silent = 0
        while answer.status is status or 0 < silent < _MAX_SILENT:
            self._notify(_describe_wait(answer, self._wanted))
            self._pace.wait(self._pace.poll_interval_s(status))
            answer = self._client.ask(peer, self._wanted.question)
            now = self._pace.now()
            # A single lost answer is no sign that the device has gone.
            silent = silent + 1 if answer.refusal else 0
            # Either one is progress: while a file is hashed, no byte comes, but the beat goes on.
            if not silent and (answer.bytes_so_far, answer.beat) != seen:
                seen, changed = (answer.bytes_so_far, answer.beat), now
            if status is FileStatus.SERVES and now - begun > self._pace.serving_s:
                return
            if now - changed > self._patience_s(status):
                self._given_up.add(peer.device_id)
                self._notify(f"{peer.shown} was waited for {now - changed:.0f} s in vain")
                return

    def _patience_s(self, status: FileStatus) -> float:
        if status in (FileStatus.MEASURES, FileStatus.READS):
            # Without another source nothing is won by giving up.
            return self._pace.measuring_s if self._has_internet else math.inf
        # One that serves is left after ``serving_s`` already, and not given up.
        return math.inf if status is FileStatus.SERVES else self._pace.stalled_s

    def _await_decision(self, answer: Answer) -> None:
        """Returns when the device fetches or has stepped back; gives it up where it stays undecided for too long."""
        begun = self._pace.now()
        while answer.status is FileStatus.INTENDS:
            if self._pace.now() - begun > self._pace.decision_s:
                self._given_up.add(answer.peer.device_id)
                return
            self._pace.wait(self._pace.decision_poll_s)
            answer = self._client.ask(answer.peer, self._wanted.question)

    def _download_from_any(self, holders: tuple[Answer, ...]) -> bool:
        """From the first holder that sends it. Each device tries them in an order of its own, to spread the load."""
        for answer in sorted(holders, key=lambda holder: _rank(self._own, holder.peer)):
            if self._download_from(answer):
                return True
        # Without a pause, holders that refuse would be asked over and over.
        self._pace.wait(self._pace.poll_s)
        return False

    def _download_from(self, answer: Answer) -> bool:
        peer, target = answer.peer, self._wanted.target
        size_bytes, sha256 = answer.bytes_so_far, self._wanted.sha256
        # Known by its address alone: the holder's hash protects the transfer, and nothing more.
        if sha256 is None:
            size_bytes, sha256 = answer.files[0].size_bytes, answer.files[0].sha256
        if self._wanted.size_bytes not in (None, size_bytes):
            return self._exclude(peer, f"has {size_bytes:,} bytes instead of {self._wanted.size_bytes:,}")
        partial = partial_of(target)
        begun_bytes = size_of(partial)
        need_room(target.parent, max(0, size_bytes - begun_bytes), self._wanted.name)
        progress = ByteProgress(self._notify, f"fetching {self._wanted.name} from {peer.shown}", size_bytes)
        # Few reconnects: there may be another holder, and all are asked again.
        sender = Sender(lambda start: self._client.stream_file(peer, sha256, start), reconnects=1)
        try:
            receive(sender, partial, size_bytes, progress.update)
        except (SendingRefused, TransferStopped, ValueError) as why:
            return self._count_failure(peer, why, size_of(partial) > begun_bytes)
        try:
            verify_partial(partial, size_bytes, sha256, f"{self._wanted.name} from {peer.shown}", self._notify)
        except LoadFailed as error:
            if error.cause is not Cause.MODEL_FILE_INVALID:
                raise
            # The bytes that were there before may be the wrong ones: downloaded whole once, before a device is blamed.
            return False if begun_bytes else self._exclude(peer, "sent other bytes than it said")
        rename_durably(partial, target)
        record_sha256(target, sha256)
        return True

    def _count_failure(self, peer: Peer, why: Exception, has_progress: bool) -> bool:
        """Always False, so that the caller can return it: the file has not come."""
        is_temporary = isinstance(why, SendingRefused) and why.is_temporary
        # A transfer that came further counts as success, for the next one goes on from there.
        self._failures[peer.device_id] = (
            0 if has_progress or is_temporary else self._failures.get(peer.device_id, 0) + 1
        )
        return self._failures[peer.device_id] >= _MAX_FAILURES and self._exclude(peer, f"does not send it ({why})")

    def _exclude(self, peer: Peer, why: str) -> bool:
        """Asks ``peer`` no more for this file. Always False, as ``_count_failure``."""
        self._peers = [each for each in self._peers if each.device_id != peer.device_id]
        self._notify(f"{peer.shown} {why}: {self._wanted.name} is not taken from there")
        return False


def _rank(own: str, peer: Peer) -> str:
    return hashlib.sha256(f"{own} {peer.device_id}".encode()).hexdigest()


def _describe_wait(answer: Answer, wanted: WantedFile) -> str:
    peer = answer.peer.shown
    of_all = f" of {format_size(wanted.size_bytes)}" if wanted.size_bytes else ""
    match answer.status:
        case FileStatus.SERVES:
            return f"waiting for {peer}, which sends {wanted.name} to others"
        case FileStatus.MEASURES:
            return f"waiting for {peer}, which has {wanted.name} and measures now"
        case FileStatus.READS:
            return f"waiting for {peer}, which checks {wanted.name}: {format_size(answer.bytes_so_far)}"
        case _:
            return f"waiting for {peer} to fetch {wanted.name}: {format_size(answer.bytes_so_far)}{of_all}"
