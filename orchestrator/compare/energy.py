"""Energy per token, from the joules and rates of a trial: derived where it is compared, never stored. PURE"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Derived:
    """A metric that is worked out from the columns ``needs``; None where one of them is null."""

    unit: str
    definition: str
    better: str
    needs: tuple[str, ...]
    work_out: Callable[..., float | None]

    def of(self, row: Row) -> float | None:
        values = [row[name] for name in self.needs]
        return None if any(value is None for value in values) else self.work_out(*values)


def _ratio(above: float, below: float) -> float | None:
    return above / below if below > 0 else None


DERIVED: dict[str, Derived] = {
    "joules_per_token": Derived(
        "J/token",
        "Energy for a token while decoding: decode_power_w / decode_tps; what it is of: energy_scope",
        "lower",
        ("decode_power_w", "decode_tps"),
        _ratio,
    ),
    "joules_per_token_above_idle": Derived(
        "J/token",
        "The same, less what the idle device draws",
        "lower",
        ("decode_power_w", "decode_energy_j", "decode_energy_above_idle_j", "decode_tps"),
        lambda power_w, all_j, above_j, tps: _ratio(power_w * above_j, all_j * tps),
    ),
    "tokens_per_joule": Derived(
        "tokens/J",
        "Tokens for a joule while decoding: decode_tps / decode_power_w",
        "higher",
        ("decode_tps", "decode_power_w"),
        _ratio,
    ),
    "prompt_joules_per_token": Derived(
        "J/token",
        "Energy from sending to first token / prompt tokens that the engine computed",
        "lower",
        ("prompt_energy_j", "engine_prompt_tokens"),
        _ratio,
    ),
    "joules_per_image": Derived(
        "J/image",
        "Energy of a workflow's run / the images that it made",
        "lower",
        ("decode_energy_j", "images"),
        _ratio,
    ),
}
