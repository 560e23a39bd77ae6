"""Sends operators what is asked of them, by a command or a webhook of theirs: ``coordinator.yaml`` on the head."""

from __future__ import annotations

import json
import logging
import subprocess
import threading
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, HttpUrl, SecretStr, ValidationError, field_validator

from agents.contract.device import Device
from agents.log import Entry
from orchestrator.dispatch.messages import AskOperator
from orchestrator.errors import UsageError

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0


class NotifyFile(BaseModel):
    """``notify:`` in ``coordinator.yaml``. The webhook's address may hold a secret: it is shown nowhere."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    command: list[str] = []  # gets the JSON on its stdin
    webhook: SecretStr | None = None  # the JSON is posted there

    @field_validator("webhook")
    @classmethod
    def _is_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                HttpUrl(value.get_secret_value())
            except ValidationError as error:
                raise ValueError("is no http or https address") from error
        return value


class CoordinatorFile(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    notify: NotifyFile = NotifyFile()


def read_coordinator_file(root: Path) -> CoordinatorFile:
    """Raises UsageError, with the key and what is allowed."""
    import yaml

    path = root / "coordinator.yaml"
    if not path.exists():
        return CoordinatorFile()
    try:
        return CoordinatorFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(f"{path}: {key}: {first['msg']}. Allowed: notify: {{command: [..], webhook: URL}}") from error
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as YAML: {type(error).__name__}") from error


class Notifier:
    """Sends in the background: a webhook that hangs holds nothing up. ``problem``: what went wrong the last time."""

    def __init__(self, settings: NotifyFile) -> None:
        self._settings = settings
        self.problem = ""

    def notify(self, ask: AskOperator, device: Device, words: str) -> threading.Thread:
        message = {
            "event": "operator_asked",
            "device": device.name,
            "device_id": device.device_id,
            "run": ask.run_id,
            "dedicated_vram_bytes": ask.state.dedicated_vram_bytes,
            "power_limit_w": ask.state.power_limit_w,
            "text": words,
        }
        thread = threading.Thread(target=self._send, args=(message,), name="notify", daemon=True)
        thread.start()
        return thread

    def _send(self, message: dict[str, Any]) -> None:
        self.problem = " ".join(filter(None, (self._run(message), self._post(message))))
        ids = {"run": message["run"], "device": message["device_id"]}
        if self.problem:
            log.warning(Entry("NotificationFailed", **ids, detail=self.problem))
        else:
            log.info(Entry("OperatorNotified", **ids))

    def _run(self, message: dict[str, Any]) -> str:
        if not self._settings.command:
            return ""
        try:
            text = json.dumps(message).encode()
            subprocess.run(self._settings.command, input=text, check=True, capture_output=True, timeout=TIMEOUT_S)
        except subprocess.CalledProcessError as error:  # not its words: the command line may hold a secret
            return f"the notify command failed: exit code {error.returncode}"
        except subprocess.TimeoutExpired:
            return f"the notify command failed: no end within {TIMEOUT_S:g} s"
        except OSError as error:
            return f"the notify command failed: {error.strerror or type(error).__name__}"
        return ""

    def _post(self, message: dict[str, Any]) -> str:
        if self._settings.webhook is None:
            return ""
        import httpx

        try:
            httpx.post(self._settings.webhook.get_secret_value(), json=message, timeout=TIMEOUT_S).raise_for_status()
        except httpx.HTTPStatusError as error:
            return f"the webhook answered {error.response.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"the webhook cannot be reached: {type(error).__name__}"
        return ""
