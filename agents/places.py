"""Where things lie on a disk. One root for a user: ``$ORCHESTRATE_HOME``, else the platform's data directory."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "ORCHESTRATE_HOME"
MODELS_PORT_VARIABLE = "ORCHESTRATE_MODELS_PORT"
"""Port at which a device serves its model files to others."""
HEAD_MODELS_PORT_VARIABLE = "ORCHESTRATE_HEAD_MODELS_PORT"
"""The same of the head, whose host may be a device as well."""


def data_root() -> Path:
    """The root, not created here: ``$ORCHESTRATE_HOME``, else (on Linux) ``~/.local/share/orchestrate``."""
    configured = os.environ.get(HOME_VARIABLE)
    if configured:
        return Path(configured).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("orchestrate", appauthor=False))


def device_root(root: Path) -> Path:
    """What belongs to this machine as a device: its id, model files, logs, reports not yet collected."""
    return root / "device"
