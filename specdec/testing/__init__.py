"""Shipped for strategy authors and for tests: a toy target, the conformance suite, tiny GGUF models."""
