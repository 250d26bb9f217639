"""How the shipped models came to be: corpus, simulation, training, evaluation, export.

May import `service`, never the reverse.
"""
