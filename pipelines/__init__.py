"""The pipeline words (`pipelines.dsl`) and the pipelines written in them."""
