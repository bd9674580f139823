"""The engine llama-server: the same prompts and settings through llama.cpp's own server, one process a configuration."""
