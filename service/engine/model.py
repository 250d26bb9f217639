"""A model that serves: what callers hold while they lease it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.engine.dispatch import Claim, Dispatcher, Waiter
from service.engine.lane import LaneKey
from service.engine.loading import Loaded
from service.errors import EmptyAudio, InternalFault
from service.values import WHENEVER, Arrays, Turn


class Model:
    """One loaded version. Leased from the manager, so that it stays while somebody uses it.

    Attributes:
        manifest: what its `model.toml` says.
        backend, provider, precision: what really runs, such as "onnx", "CPUExecutionProvider", "fp32".
        batching: how its jobs may share a batch, as the manifest says or as the probe found.
        lane: the key of its queue.
    """

    def __init__(self, loaded: Loaded, dispatcher: Dispatcher, lane: LaneKey) -> None:
        manifest = loaded.manifest
        self.manifest = manifest
        self.backend = loaded.backend.kind
        self.provider = loaded.backend.provider
        self.precision = loaded.file.precision
        self.batching = loaded.policy.mode
        self.lane = lane
        self._dispatcher = dispatcher
        self._max_samples = round(manifest.window.max_s * manifest.sample_rate)

    def __repr__(self) -> str:
        return f"Model({self.manifest.id}, {self.backend}, {self.provider}, {self.batching})"

    async def run(self, waveform: NDArray[np.float32], turn: Turn = WHENEVER) -> Arrays:
        """Compute one job. Cancelling the awaiting task cancels it: it is never computed if it still waits.

        Args, returns and raises: as `submit`, whose waiter is the caller.
        """
        self._check(waveform)
        return await self._dispatcher.run(self.lane, waveform, turn)

    def submit(
        self, waveform: NDArray[np.float32], turn: Turn, waiter: Waiter, *, is_admitted: bool = False
    ) -> Claim:
        """Queue one job, from any thread.

        Args:
            waveform: (samples,) at the manifest's rate, at least one sample, at most `window.max_s` long.
            waiter: is given the graph's outputs for this item without the batch axis: `enhanced` as long as *waveform*,
                frames as many as the item's `frame_lengths`; or one of `DeadlinePassed`, `OutOfMemory` (no room even
                for this job alone), `ModelFault` (the model failed on this waveform), `Draining`, `ModelUnavailable`.
            is_admitted: more of a recording that was let in already.

        Raises:
            EmptyAudio: *waveform* has no samples.
            Overloaded, ShareUsedUp: the queue or the caller's part of it is full, or the deadline cannot hold.
            DeadlinePassed: it had passed already.
            Draining: the service is shutting down.
        """
        self._check(waveform)
        return self._dispatcher.submit(self.lane, waveform, turn, waiter, is_admitted=is_admitted)

    def _check(self, waveform: NDArray[np.float32]) -> None:
        if waveform.size == 0:
            raise EmptyAudio("There are no samples to listen to.")
        if waveform.ndim != 1 or waveform.dtype != np.float32 or len(waveform) > self._max_samples:
            raise InternalFault(
                f"{self.manifest.id} takes 1 to {self._max_samples} float32 samples, "
                f"not {waveform.dtype} of shape {waveform.shape}"
            )
