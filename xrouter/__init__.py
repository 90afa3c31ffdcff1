"""XRouter: a self-hosted OpenRouter for Russian LLMs."""

__version__ = "1.0.0.dev0"
