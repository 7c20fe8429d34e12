"""The subcommands, one file each. A file is imported only when its command runs: all of them take half a second."""
