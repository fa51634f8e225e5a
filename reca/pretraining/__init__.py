"""How the tiny bases that ship with the repository are made: tokenizer, understanding, sparse-caption text-to-image."""
