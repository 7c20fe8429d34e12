"""
The maths of the transformer: weights, matrix products, rotary embedding, attention, sampling. It takes arrays and
returns arrays, and opens no file and no socket.
"""
