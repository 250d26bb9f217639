"""What the service costs on this machine. Timings live here, never in the tests."""
