"""Janus-Pro: one autoregressive transformer with a SigLIP encoder for understanding and VQ codes for drawing."""
