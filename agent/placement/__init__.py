"""
`steadytok placement`: reads from the kernel on which NUMA nodes the pages of a process are, and prints it. Nothing is
moved or learnt here; the learnt placement of engines and its drift are in `agent/engines/`.
"""
