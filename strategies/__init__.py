"""The built-in strategies, shipped as ``specdec.strategies``: a new file here is found without registration."""
