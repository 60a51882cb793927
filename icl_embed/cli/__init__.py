"""The command line, one file per noun; flows/command_line.py mounts them."""
