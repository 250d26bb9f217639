"""One file an endpoint: parse, call one task, shape the answer. No arithmetic."""
