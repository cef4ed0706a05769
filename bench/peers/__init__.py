"""What a user would run instead, beside us: installed on demand into a cache, run with the same payload and generator.

None of them is a dependency of anything. What is not installed, or cannot be here, is a row that says so.
"""

from bench.peers import rie, workerd
from bench.peers.peer import Absent, Installed, Missing, Peer, installed

__all__ = ["ABSENT", "PEERS", "Absent", "Installed", "Missing", "Peer", "installed"]

PEERS: tuple[Peer, ...] = (rie.PEER, workerd.PEER)
NOWHERE = "not installable here: neither PyPI, npm nor Debian has it, only its source"
ABSENT: tuple[Absent, ...] = (
    Absent(name="Nuclio, Python processor", least=6, reason=NOWHERE),
    Absent(name="Nightcore, Python", least=2, reason=NOWHERE),
)
