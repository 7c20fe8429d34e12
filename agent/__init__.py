"""The top floor: wires the rooms together, tells people, and answers alerts."""
