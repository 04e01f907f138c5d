"""The encoders by name: `register` adds one, yours too."""

from workbench.contracts import Encoder
from workbench.registry import Registry

ENCODERS = Registry("encoder", Encoder, ("dim", "max_length"))
register = ENCODERS.register
