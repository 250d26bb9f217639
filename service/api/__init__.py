"""HTTP only: parse, call one task, shape the answer."""
