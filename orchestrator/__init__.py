"""Plans benchmarks, dispatches them to devices, keeps and compares what comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.results import load as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """``orchestrator.load`` on first use: importing the package stays free of pyarrow (0.1 s)."""
    if name == "load":
        from orchestrator.results import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
