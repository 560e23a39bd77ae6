"""One model of a ``llama-server`` in router mode, loaded and unloaded by HTTP calls.

The router answers a load at once and reports its end in /models; of a load that failed it reports an exit code alone.
"""

from __future__ import annotations

from contextlib import suppress

from agents.contract.report import Cause
from agents.engines.base import LoadPlace
from agents.engines.llama.answers import ServedModel, read_served
from agents.engines.server.api import Api, ApiError
from agents.errors import AgentError, EngineLost, LoadFailed

LOOK_S = 0.05  # between two looks at a load: how late its end is seen
GONE_S = 15.0  # the router itself gives a model 10 s to end
_RUNNING = ("loading", "loaded", "sleeping")


class RoutedLoad:
    """``model``: its entry in /models before the load."""

    def __init__(self, api: Api, model: ServedModel, place: LoadPlace) -> None:
        self._api, self._name, self._clock, self._place = api, model.name, place.clock, place
        self._was_running = model.state in _RUNNING

    def load(self) -> tuple[ServedModel, float]:
        """Loads the model, and returns its new entry and the seconds that it took. One that ran already is loaded anew.

        Raises LoadFailed, with the model unloaded.
        """
        try:
            if self._was_running:
                self.unload()
            started = self._clock.monotonic_ns()
            self._api.post("/models/load", {"model": self._name})
            model = self._wait_until_loaded(started)
            return model, (self._clock.monotonic_ns() - started) / 1e9
        except ApiError as error:
            self._give_up()
            raise error.as_failed_load() from error
        except LoadFailed:
            self._give_up()
            raise

    def _wait_until_loaded(self, started_ns: int) -> ServedModel:
        while True:
            self._place.refuse_late(started_ns)
            model = self._look()
            if model.state == "loaded":
                return model
            if model.state not in ("loading", "downloading"):
                code = "" if model.exit_code is None else f", exit code {model.exit_code}"
                detail = f"the router could not load {self._name} ({model.state}{code}); its own log says why"
                raise LoadFailed(Cause.LOAD_FAILED, detail)
            self._clock.sleep(LOOK_S)

    def _look(self) -> ServedModel:
        """The model's entry now. Raises ApiError; EngineLost where the router has the model no more."""
        for model in read_served(self._api.get("/models")):
            if model.name == self._name:
                return model
        raise EngineLost(f"the router at {self._api.base_url} has no model {self._name} any more")

    def ping(self) -> None:
        """Raises AgentError where the model is not loaded any more."""
        state = self._look().state
        if state != "loaded":
            raise EngineLost(f"the router says that {self._name} is {state}")

    def unload(self) -> None:
        """Unloads the model, and waits until its process has ended. Raises AgentError where it does not end."""
        self._api.post("/models/unload", {"model": self._name})
        requested_ns = self._clock.monotonic_ns()
        while self._look().state in _RUNNING:
            if self._clock.monotonic_ns() - requested_ns > GONE_S * 1e9:
                detail = f"the router did not end {self._name} within {GONE_S:g} s"
                raise LoadFailed(Cause.LOAD_FAILED, detail)
            self._clock.sleep(LOOK_S)

    def _give_up(self) -> None:
        with suppress(AgentError):
            self.unload()
