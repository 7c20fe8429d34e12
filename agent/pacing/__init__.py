"""
The pacing controller: how fast an engine may run so that its hottest DIMM stays just below its limit.

Heat follows bytes streamed per second, so a DIMM is a first-order plant. Idle, it ends at some distance from its limit;
at full load it ends `gain` degrees warmer, with a time constant of minutes. `thermal_model` learns the three from the
engine's ordinary work, `controller` is the law that moves the duty, and `benefit` compares pacing with the firmware's
own throttling. `inputs` reads what they need from History. All of these are pure: time, readings and settings come in
as values. `learner` keeps the learnt plant of each engine, and `metrics` exposes it.

Everything is in degrees below the limit, the headroom, because every source can tell that: Intel's BMCs give the
distance and no temperature, and modules of one host may have different limits.
"""
