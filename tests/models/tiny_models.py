"""The tiny random model of every family."""

from collections.abc import Callable

import bagel_tiny
import harmon_tiny
import janus_tiny
import openuni_tiny
import showo_tiny

from reca.models.base import UnifiedModel

BUILD: dict[str, Callable[[], UnifiedModel]] = {
    "showo": showo_tiny.tiny_model,
    "harmon": harmon_tiny.tiny_model,
    "janus": janus_tiny.tiny_model,
    "openuni": openuni_tiny.tiny_model,
    "bagel": bagel_tiny.tiny_model,
}
