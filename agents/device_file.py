"""``device.yaml`` and ``stated.json`` beside the device's id: what only the owner and the operator know."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from agents.contract.device import MemoryKind
from agents.contract.engines import engine_names
from agents.files import write_atomic
from agents.units import parse_bandwidth, parse_bytes, parse_watts


def _quantity(parse: Callable[[str], int | float]) -> BeforeValidator:
    """A value as a matrix writes it too; its refusal names it."""

    def read(value: Any) -> int | float | None:
        try:
            return None if value is None else parse(str(value).strip())
        except ValueError as error:
            raise ValueError(f"{value!r} {error}") from error

    return BeforeValidator(read)


DEVICE_FILE = "device.yaml"


class Allow(BaseModel):
    """What the owner lets the agent change: by default nothing."""

    model_config = ConfigDict(extra="forbid")

    set_dedicated_vram: bool = False  # through uma/carveout, with a reboot
    reboot: list[str] = Field(default=["systemctl", "reboot"], min_length=1)  # the command, as a list of words
    power: list[str] = []  # names of methods that may hold a power limit or a profile
    power_most: Annotated[float | None, _quantity(parse_watts)] = None  # no limit above it is ever set


class EngineEntry(BaseModel):
    """Where an engine of this device is, where that is not its usual place; a section under ``engines``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = Field(default=None, pattern=r"^https?://[^/\s@]+(/[^?#\s]*)?$")  # of a server that runs already
    programs: tuple[str, ...] = ()  # paths of builds of the engine, or of its command-line tool
    token_env: str | None = None  # the environment variable that holds the server's token; never the token itself
    restart: tuple[str, ...] = ()  # command that restarts the server, where the owner allows it
    environment_file: str | None = None  # file that the restarted server reads its environment from


def _engines(value: Any) -> Any:
    unknown = sorted(set(value) - set(engine_names())) if isinstance(value, dict) else []
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no engine; allowed: {', '.join(engine_names())}")
    return value


class DeviceFile(BaseModel):
    """``device.yaml``. All keys are optional."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    labels: dict[str, str] = {}
    memory: MemoryKind | None = None  # where the machine cannot tell, or tells it wrongly
    dedicated_vram: Annotated[int | None, _quantity(parse_bytes)] = None  # stated; what is seen counts more
    power_limit: Annotated[float | None, _quantity(parse_watts)] = None  # stated
    memory_bandwidth: Annotated[float | None, _quantity(parse_bandwidth)] = None  # stated; bytes a second
    allow: Allow = Allow()
    engines: Annotated[dict[str, EngineEntry], BeforeValidator(_engines)] = {}

    def engine(self, name: str) -> EngineEntry:
        """What the owner states of one engine; the defaults where the file does not name it."""
        return self.engines.get(name, EngineEntry())


def read_device_file(folder: Path) -> DeviceFile:
    """Raises ValueError, with the file's name, the key and what is allowed, where ``device.yaml`` is not right."""
    path = folder / DEVICE_FILE
    if not path.exists():
        return DeviceFile()
    import yaml

    allowed = ", ".join(DeviceFile.model_fields)
    try:
        return DeviceFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except ValidationError as error:
        faults = [_words_of(each["loc"], each["msg"]) for each in error.errors()]
        raise ValueError(f"{path}: {'; and '.join(faults)}") from error  # one line, for a list of devices
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}. Allowed keys: {allowed}") from error


def _words_of(steps: tuple[int | str, ...], message: str) -> str:
    """One fault, with the keys that are allowed where it stands."""
    key = ".".join(map(str, steps)) or "the file"
    allowed: Iterable[str] = DeviceFile.model_fields
    if key.startswith("allow."):
        allowed = Allow.model_fields
    elif key.startswith("engines."):
        allowed = EngineEntry.model_fields
    near = get_close_matches(str(steps[-1]) if steps else "", allowed, n=1)
    meant = f"; did you mean {near[0]}?" if near and near[0] != steps[-1] else "."
    fault = "unknown key" if message == "Extra inputs are not permitted" else message
    return f"{key}: {fault}{meant} Allowed keys: {', '.join(allowed)}"


TAKEN_BACK = -1


@dataclass(frozen=True, slots=True)
class Stated:
    """What the operator states of the machine, where nothing on it can be observed. None: not stated."""

    dedicated_vram_bytes: int | None = None
    power_limit_w: float | None = None


def read_stated(folder: Path, own: DeviceFile) -> Stated:
    """The operator's latest statement (``orchestrate state``); where there is none, that of ``device.yaml``."""
    stated = Stated(**_stated_fields(folder))
    split, power = stated.dedicated_vram_bytes, stated.power_limit_w
    return Stated(own.dedicated_vram if split is None else split, own.power_limit if power is None else power)


def _stated_fields(folder: Path) -> dict[str, Any]:
    """What stands in ``stated.json`` of the fields of Stated; nothing where it cannot be read."""
    try:
        stored = json.loads((folder / "stated.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = {each.name for each in fields(Stated)}  # a newer version may have written others
    return {key: value for key, value in stored.items() if key in known} if isinstance(stored, dict) else {}


def keep_stated(folder: Path, stated: Stated) -> None:
    """Adds to what was stated before; TAKEN_BACK takes a statement back. Raises OSError."""
    now = _stated_fields(folder) | {key: value for key, value in asdict(stated).items() if value is not None}
    now = {key: value for key, value in now.items() if value != TAKEN_BACK}
    write_atomic(folder / "stated.json", json.dumps(now))
