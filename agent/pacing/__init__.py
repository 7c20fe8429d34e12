"""
The pacing controller: decides how fast an engine may run so that its hottest DIMM stays just below its limit. It slows
no engine down (`agent/actions/` does), and has no clock: times come in as values.

Heat follows bytes streamed per second, so a DIMM is a first-order plant. Idle, it ends at some distance from its limit;
at full load it ends `gain` degrees warmer, with a time constant of minutes. `thermal_model` learns the three from the
engine's ordinary work, `controller` is the law that moves the duty, and `benefit` compares pacing with the firmware's
own throttling. `inputs` reads their inputs from History. All of these are pure: time, readings and settings come in as
values. `learner` keeps the learnt plant of each engine, and `metrics` exposes it.

Everything is in degrees below the limit, the headroom, because every source can report that: Intel's BMCs give the
distance and no temperature, and modules of one host may have different limits.
"""
