"""The only rooms that import onnxruntime or torch, behind one small protocol."""
