"""The only place that imports llama_cpp. Nothing here is imported before a model is needed."""
