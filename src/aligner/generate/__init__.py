"""Any LLM behind one protocol: Hugging Face models and scripted ones."""
