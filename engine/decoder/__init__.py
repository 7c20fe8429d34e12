"""
The maths of the transformer: weights, matrix products, rotary embedding, attention, sampling.

Takes arrays and returns arrays; opens no file and no socket.
"""
