"""The speech-quality family: PESQ labels on simulated damage, and a recurrent net that predicts them unaided."""
