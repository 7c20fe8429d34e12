"""One file for each subcommand, imported only when it is called: importing them all takes half a second."""
