"""
Kernel interfaces that several collectors read: meminfo, kmsg, AMD's HSMP device.

Furniture of the collectors; it yields no sample itself.
"""
