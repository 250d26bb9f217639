"""How the shipped models came to be: data, networks, training, evaluation, export.

May import `service`, never the reverse.
"""
