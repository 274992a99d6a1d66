"""An OpenAI-compatible address in front of any upstream, where every answer comes back corrected."""
