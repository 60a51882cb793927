"""A process that says one word and never tells who it is."""

import time

print("here")
time.sleep(2)
