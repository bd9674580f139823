"""The built-in prompt sets (data, JSON Lines), shipped as the package ``specdec.prompts``."""
