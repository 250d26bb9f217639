"""The sound event model: which of a few sounds are heard in a recording, and when."""
