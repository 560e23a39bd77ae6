"""Graphics cards as the kernel's DRM subsystem shows them, and the hwmon folder that belongs to a card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.telemetry.sources.files import first_line


@dataclass(frozen=True, slots=True)
class DrmCard:
    """``name``: ``card1``; ``slot``: its place on the PCI bus, ``0000:c5:00.0``, empty where it has none."""

    name: str
    folder: Path
    driver: str
    slot: str

    @property
    def device(self) -> Path:
        return self.folder / "device"


def cards(root: Path, *drivers: str) -> list[DrmCard]:
    """The cards of these drivers, card2 before card10."""
    found = []
    for folder in sorted((root / "sys/class/drm").glob("card[0-9]*"), key=lambda each: (len(each.name), each.name)):
        link = folder / "device/driver"
        if "-" in folder.name or not link.exists():
            continue  # an output of a card
        driver = link.resolve().name
        if driver in drivers:
            found.append(DrmCard(folder.name, folder, driver, _slot(folder / "device")))
    return found


def _slot(device: Path) -> str:
    try:
        for line in (device / "uevent").read_text(errors="replace").splitlines():
            key, _, value = line.partition("=")
            if key == "PCI_SLOT_NAME":
                return value.strip()
    except OSError:
        pass
    return ""


def hwmon_of(device: Path, *names: str) -> Path | None:
    """The device's hwmon folder that calls itself one of these names."""
    for folder in sorted((device / "hwmon").glob("hwmon*")):
        if first_line(folder / "name") in names:
            return folder
    return None


def labelled(hwmon: Path, kind: str) -> dict[str, str]:
    """Channel by label: ``{"edge": "temp1", "junction": "temp2"}`` for the kind ``temp``."""
    return {first_line(path): path.name.removesuffix("_label") for path in sorted(hwmon.glob(f"{kind}*_label"))}
