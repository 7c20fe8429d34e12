"""
`steadytok placement`: where the pages of a process are, as the kernel tells it now.

Reads and prints; the learnt placement of engines and its drift are in `agent/engines/`, and nothing is moved here.
"""
