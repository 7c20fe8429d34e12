"""
The maths of the transformer: weights, matrix products, rotary embedding, attention, sampling.

Arrays in, arrays out; it opens no file and no socket.
"""
