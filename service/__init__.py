"""Earmark: how good a recording of speech sounds, what is heard in it, and how it sounds without the noise."""

__version__ = "0.1.0"
