"""What an answer means. Knows audio and the engine, not HTTP."""
