"""BAGEL: a Qwen2 mixture of two experts over one packed sequence, a SigLIP tower that sees and a flow that draws."""
