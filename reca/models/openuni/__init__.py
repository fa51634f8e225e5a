"""OpenUni: InternVL3 understands, learned queries and a connector condition a Sana diffusion transformer that draws."""
