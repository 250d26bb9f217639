"""A small causal speech enhancer at 16 kHz: network, mixtures, losses, training, evaluation, export."""
