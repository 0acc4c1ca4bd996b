"""Facts about a provider as data: `Facts` of a file, which client and emulator read alike.

``default.toml`` has what is assumed until it is measured. This layer imports only validation and
errors.
"""

from async_vmapi.facts.file import Fact, Facts
from async_vmapi.facts.spec import SPECS, FactSpec

__all__ = ["SPECS", "Fact", "FactSpec", "Facts"]
