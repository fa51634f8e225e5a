"""Images in: sources, canonical shards, the built-in twemoji scenes, encoded shards, sample order and streams."""
