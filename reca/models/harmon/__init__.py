"""Harmon: one masked autoencoder over continuous image latents serves understanding and drawing around a Qwen2 LLM."""
