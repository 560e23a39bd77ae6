"""Why a device that is there takes no job for now: its disk takes no writes, or only a reboot ends what hangs."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from agents.contract.device import Blocked, Device
from agents.contract.model_need import DISK_MARGIN_BYTES
from agents.contract.wire_json import from_json, to_json
from agents.files import write_atomic
from agents.log import Entry, suppressed
from agents.units import format_size

log = logging.getLogger(__name__)

PROBE_BYTES = 64 * 1024
LEAST_SHARE = 0.05
"""Of a disk that is smaller than 20 margins, so much must be free."""


def why_unwritable(folder: Path) -> str:
    """Why the disk of ``folder`` takes no writes; empty where it does. Writes, flushes and removes a small file.

    A disk that has less than a margin free is full as well: the next log or download would end on it.
    """
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(b"\0" * PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
        usage = shutil.disk_usage(folder)
    except OSError as error:
        words = "its disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "its disk takes no writes"
        return f"{words}: {error.strerror or error} ({folder})"
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    least_bytes = min(DISK_MARGIN_BYTES, int(usage.total * LEAST_SHARE))
    if usage.free < least_bytes:
        has, needs = format_size(usage.free), format_size(least_bytes)
        return f"its disk is full: {has} free, and {needs} are needed ({folder})"
    return ""


class RebootMark:
    """A file that says that only a reboot ends what hangs here: it holds for one boot, and for each agent of that."""

    def __init__(self, folder: Path, boot_id: str) -> None:
        self._path = folder / "needs-reboot.json"
        self._boot_id = boot_id

    def set(self, why: str, device: Device | None) -> None:
        """``device``: as it was last examined; no job process can examine it now."""
        facts = json.loads(to_json(device)) if device is not None else None
        with suppressed(log, "RebootMarkNotKept", OSError):
            write_atomic(self._path, json.dumps({"boot_id": self._boot_id, "why": why, "device": facts}))

    def read(self) -> tuple[Blocked, Device | None] | None:
        """None where nothing hangs, or the machine has been rebooted since."""
        try:
            kept = json.loads(self._path.read_bytes())
            if kept["boot_id"] == self._boot_id:
                facts = kept["device"]
                device = from_json(Device, json.dumps(facts)) if facts is not None else None
                return Blocked(str(kept["why"]), needs_reboot=True), device
            self._path.unlink()
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            log.warning(Entry("RebootMarkUnreadable", error=type(error).__name__))
        return None


class DeviceBlock:
    """What blocks a device ``now``. Not thread-safe but for ``disk_trouble``: its agent's lock guards it.

    ``last_device``: as it was examined last, perhaps by an agent before this one.
    """

    def __init__(self, folder: Path, boot_id: str, why_unwritable: Callable[[Path], str]) -> None:
        self._folder = folder
        self._why_unwritable = why_unwritable
        self._mark = RebootMark(folder, boot_id)
        self.now: Blocked | None
        self.last_device: Device | None
        self.now, self.last_device = self._mark.read() or (None, None)

    def stuck_device(self) -> Device | None:
        """The device, where only a reboot lets a job process examine it again; else, or where none ever did, None."""
        return self.last_device if self.now is not None and self.now.needs_reboot else None

    def disk_trouble(self) -> str:
        """Why the disks of this device take no writes; empty where they do. May take long on a disk that fails."""
        models = self._folder / "models"
        return self._why_unwritable(self._folder) or (self._why_unwritable(models) if models.is_dir() else "")

    def by_disk(self, why: str) -> None:
        """``why``: as ``disk_trouble`` says it; where that is empty nothing changes."""
        if why and self.now is None:
            log.error(Entry("DeviceBlocked", detail=why))
            self.now = Blocked(why)

    def rechecked(self, why: str) -> None:
        """What the disk is like now; a need of a reboot stays."""
        if self.now is not None and not self.now.needs_reboot:
            self.now = Blocked(why) if why else None
            if not why:
                log.info(Entry("DeviceUnblocked"))

    def until_reboot(self, stuck: str, kill_s: float) -> None:
        """``stuck``: the processes that were killed and are there ``kill_s`` later."""
        why = f"{stuck} was there {kill_s:g} s after SIGKILL: it hangs in a driver, and only a reboot ends it"
        log.error(Entry("RebootNeeded", detail=why))
        self.now = Blocked(why, needs_reboot=True)
        self._mark.set(why, self.last_device)
