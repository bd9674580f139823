"""Models by name: demo models, files, Hugging Face (``hf:``), Ollama (``ollama:``); which ones are on this machine."""

from specdec.models.names import model_path

__all__ = ["model_path"]
