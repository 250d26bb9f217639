"""Degraded speech from clean, for every recipe: one simulator, deterministic from a seed, without torch.

`speech` makes references, `noise` and `rooms` what surrounds them, `damage` and `denoise` what happens to them on the
way, `mixture` adds at a ratio, `recipe` draws whole chains. All waveforms are float32 shaped (samples,).
"""
