"""FastAPI as most write it: a plain function for the endpoint, one run of the model a request."""

from __future__ import annotations

from typing import Any

import uvicorn
from fastapi import FastAPI, UploadFile

from benchmarks.peers.scoring import PORT, Scorer, decode

app = FastAPI()
scorer = Scorer()


@app.post("/score")
def score(audio: UploadFile) -> dict[str, Any]:
    return scorer.score([decode(audio.file.read())])[0]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, access_log=False, log_level="warning")
