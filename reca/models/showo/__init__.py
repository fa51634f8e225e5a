"""Show-o: one causal language model that reads CLIP features and text and fills in masked image codes (MAGVITv2)."""
