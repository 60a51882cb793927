"""``icl_embed.train`` with a pause after every step, so that a test can kill it at a chosen one."""

import sys
import time
from pathlib import Path

from icl_embed.train import loop
from icl_embed.train.embedder.__main__ import main

announce = loop._announce


def announce_slowly(line, steps):
    announce(line, steps)
    time.sleep(0.5)


loop._announce = announce_slowly

if __name__ == "__main__":
    main(Path(sys.argv[1]))
