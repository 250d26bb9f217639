"""Other servers with the same model on the same machine, each set up as its documentation advises."""
