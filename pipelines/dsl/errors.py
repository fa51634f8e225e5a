"""Errors of the pipeline words. Every message says what is wrong, where, and how to mend it."""


class DslError(RuntimeError):
    """Base of everything the pipeline words raise on purpose."""


class BuildError(DslError, ValueError):
    """A stage or pipeline is declared or called in a way that cannot work."""


class CanonicalError(BuildError):
    """A parameter has no canonical form, so no key can be made from it."""


class FingerprintError(DslError):
    """The code that a stage reaches cannot be followed."""


class SettingsError(DslError, ValueError):
    """A recipe, `--set` or `--context` does not fit the configuration."""


class StoreError(DslError):
    """The store cannot be read or written."""


class AlteredError(StoreError):
    """A file or manifest in the store is not what was written."""


class LeaseLostError(StoreError):
    """Another driver took over the key that this one was computing."""


class ResourceError(DslError):
    """A stage asks for more than the cluster can ever hold."""


class RunError(DslError):
    """One or more stages failed; what was done before is kept."""
