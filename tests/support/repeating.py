"""A thief who knows more than any real one could: the victim's private order of the pages."""

import hashlib

from localnet.adversaries.repeating import Repeater


class KnowsTheOrder(Repeater):
    """Repeats the victim's training in a simulated world, whose private bytes can be foreseen."""

    def guess_secret(self) -> bytes:
        victim = self.victim or self.parts.context.hotkey
        return hashlib.sha256(victim.encode()).digest()
