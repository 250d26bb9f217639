"""Bytes to samples and back. Knows neither HTTP nor models."""
