"""
The pacing controller: how fast an engine may run so that its hottest DIMM stays just below its limit.

Heat follows bytes streamed per second, so a DIMM is a first-order plant: idle, it ends at some distance from its limit;
worked all the time, it ends `gain` degrees warmer, with a time constant of minutes. `plant` learns the three from what
an engine does anyway, `control` is the law that moves the duty, `worth` says whether holding the DIMM back leaves more
than the firmware's own throttling, and `asking` is what they are told by History. All of it is pure: time, readings and
settings come in as values. `thermals` keeps what is learnt, for each engine, and `metrics` shows it.

Everything is in degrees below the limit, the headroom, because that is what every source can tell: Intel's BMCs give
the distance and no temperature, and modules of one host may have different limits.
"""
