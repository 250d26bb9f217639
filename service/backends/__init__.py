"""The only rooms that import onnxruntime or torch, behind one small protocol."""

import os

# onnxruntime for Linux and macOS keeps a device id in the home folder and reports its use to its maker. It asks once,
# when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
