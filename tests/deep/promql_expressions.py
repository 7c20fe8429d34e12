"""The PromQL expressions that are compared with Prometheus, and those that both must refuse."""

from __future__ import annotations

EXPRESSIONS = """
temperature
temperature{node="0"}
temperature{node!="0"}
temperature{dimm=~"A.*"}
temperature{dimm!~"A.*|B1"}
temperature{nothing=""}
temperature{nothing!=""}
{__name__=~"temp.*|limit"}
{__name__="limit",node=~"0|1"}
temperature offset 3m
temperature offset -2m
temperature @ 1700000603
temperature @ 1700000603 offset 1m
temperature @ end()
sum(temperature @ start())
ended
ended offset 2m
gone
gone offset 4m
late
sparse
odd
vector(1)
time()
1 + 2 * 3 ^ 2 ^ 0.5 % 5
-2 ^ 2
1 < bool 2
7 % -3
-7.5 % 2
1 / 0
0 / 0
1 atan2 2
temperature + 1
2 - temperature
temperature * 2 / 3
temperature % 7
temperature ^ 2
(temperature * 2) atan2 10
-temperature
+temperature
temperature > 50
50 < temperature
temperature >= bool 50
temperature == temperature
temperature != temperature
temperature != bool temperature
odd > 0
odd == bool odd
temperature > time()
temperature + temperature
temperature - on(dimm) temperature
cpu_seconds_total + ignoring(cpu) group_left limit
temperature / on(node) group_left limit
temperature * on(node) group_left(model, vendor) info
info * on(node) group_right(model) temperature
temperature > on(node) group_left limit - 40
temperature > bool on(node) group_left limit - 40
limit > on(node) info
limit < bool on(node) info
limit * on(node) info
limit + info
limit + ignoring(model, vendor) info
cpu_seconds_total and on(node) limit > 80
temperature and temperature > 50
temperature and on() vector(1)
temperature unless temperature > 50
temperature unless on(node) limit{node="1"}
temperature > 60 or temperature < 30
limit or info
limit or on(node) info
limit{node="0"} or on() vector(0)
absent_series or vector(7)
histogram_quantile(0.5, latency_bucket)
histogram_quantile(0, latency_bucket)
histogram_quantile(1, latency_bucket)
histogram_quantile(0.9, sum by (le) (rate(latency_bucket[2m])))
histogram_quantile(0.99, rate(latency_bucket[1m]))
histogram_quantile(0.9, latency_bucket{le!="+Inf"})
histogram_quantile(-0.1, latency_bucket)
histogram_quantile(0.5, temperature)
histogram_quantile(scalar(limit{node="0"}) / 100, latency_bucket)
sum(temperature)
sum by (node) (temperature)
sum without (node) (temperature)
sum by (nothing) (temperature)
sum without (dimm, node) (temperature)
avg by (node) (temperature)
min by (node) (temperature)
max by (node) (temperature)
count by (node) (temperature)
count(absent_series)
count(temperature > 50)
group by (node) (temperature)
stddev by (node) (temperature)
stdvar(temperature)
sum by (__name__) ({__name__=~"limit|info"})
topk(2, temperature)
bottomk by (node) (1, temperature)
topk(0, temperature)
topk(100, temperature)
quantile(0.9, temperature)
quantile by (node) (0.25, temperature)
quantile(2, temperature)
min(odd)
max(odd)
sum(odd)
avg(odd)
count(odd)
topk(3, odd)
quantile(0.5, odd)
sort(temperature)
sort_desc(temperature)
rate(cpu_seconds_total[1m])
rate(cpu_seconds_total[5m])
rate(cpu_seconds_total[5m] offset 2m)
rate(cpu_seconds_total[5m] @ 1700000903)
increase(cpu_seconds_total[2m])
increase(sparse[3m])
delta(temperature[2m])
rate(late[5m])
rate(ended[5m])
rate(gone[5m])
increase(gone[4m])
irate(cpu_seconds_total[1m])
idelta(temperature[1m])
irate(sparse[2m])
rate(cpu_seconds_total[4s])
resets(cpu_seconds_total[10m])
changes(temperature[3m])
changes(odd[3m])
resets(gone[5m])
deriv(temperature[2m])
deriv(sparse[5m])
deriv(limit[2m])
predict_linear(temperature[3m], 600)
predict_linear(temperature[3m] offset 1m, 600)
predict_linear(sparse[5m], -60)
avg_over_time(temperature[2m])
min_over_time(temperature[2m])
max_over_time(temperature[2m])
sum_over_time(temperature[2m])
count_over_time(temperature[2m])
count_over_time(gone[5m])
last_over_time(temperature[2m])
last_over_time(gone[5m])
present_over_time(gone[2m])
stddev_over_time(temperature[2m])
stdvar_over_time(sparse[5m])
quantile_over_time(0.9, temperature[2m])
quantile_over_time(-1, temperature[2m])
quantile_over_time(0.5, odd[2m])
min_over_time(odd[2m])
max_over_time(odd[2m])
sum_over_time(odd[1m])
avg_over_time(odd[1m])
avg_over_time(sparse[2m])
max_over_time(temperature[5m:15s])
max_over_time(temperature[5m:15s] @ 1700000903)
avg_over_time(temperature[5m:20s])
max_over_time(rate(cpu_seconds_total[1m])[5m:15s])
sum_over_time(gone[5m:20s])
count_over_time((temperature > 50)[5m:15s])
quantile_over_time(0.5, sum by (node) (rate(cpu_seconds_total[1m]))[4m:15s])
rate(sum(cpu_seconds_total)[5m:15s])
min_over_time(max_over_time(temperature[1m])[3m:15s] offset 1m)
avg_over_time(vector(3)[2m:15s])
deriv(rate(cpu_seconds_total[1m])[5m:20s])
max_over_time((time() - 1700000000)[2m:15s])
absent(temperature)
absent(absent_series)
absent(absent_series{a="b",c!="d",e="f",e="g"})
absent(absent_series{a="b"} > 0)
absent(sum(absent_series))
absent(gone)
absent_over_time(gone[1m])
absent_over_time(absent_series{a="b"}[5m])
abs(temperature - 50)
ceil(temperature)
floor(temperature)
round(temperature)
round(temperature, 5)
round(temperature / 7, 0.1)
clamp(temperature, 30, 60)
clamp(temperature, 60, 30)
clamp_min(temperature, 40)
clamp_max(temperature, 40)
exp(temperature / 100)
ln(temperature)
log2(temperature)
log10(temperature)
sqrt(temperature)
ln(temperature - 60)
sqrt(temperature - 60)
sgn(temperature - 50)
abs(odd)
scalar(limit{node="0"})
scalar(limit)
scalar(absent_series)
temperature > scalar(limit{node="0"}) - 40
vector(scalar(sum(limit)))
timestamp(temperature)
timestamp(temperature offset 1m)
timestamp(temperature > 50)
time() - timestamp(sparse)
label_replace(temperature, "slot", "$1-${2}", "dimm", "(.)(.)")
label_replace(temperature, "slot", "none", "dimm", "Z")
label_replace(temperature, "dimm", "", "dimm", ".*")
label_replace(temperature, "slot", "$1x", "dimm", "(.).*")
label_replace(temperature, "slot", "${name}", "dimm", "(?P<name>.).*")
label_replace(limit, "new", "x", "absent", "")
label_join(temperature, "place", "/", "node", "dimm")
label_join(limit, "place", ",")
count_values("value", limit)
count_values by (node) ("value", round(temperature))
count_values without (dimm, node) ("node", limit)
count_values("value", odd)
count_values("value", limit / 1e9)
abs(limit atan2 2)
limit atan2 on (node) info
hour(vector(0 / 0))
year(vector(1e30))
day_of_year(vector(-1e12))
clamp_min(odd, Inf)
clamp_max(odd, -Inf)
clamp(odd, NaN, 3)
1 / sgn(odd)
odd ^ 0.5
odd ^ -0.5
round(temperature, 0)
round(temperature, -2)
{__name__=~"cpu_seconds_total|late"} and on() vector(1)
pi() * 2
deg(limit) + rad(limit)
tanh(temperature / 100)
minute()
days_in_month(vector(951782400))
max_over_time(limit[5m]) == limit
avg_over_time(limit[2m]) == limit
stddev_over_time(limit[2m])
sum by (slot) (label_replace(temperature, "slot", "$1", "dimm", "(.).*"))
(sum by (node) (rate(cpu_seconds_total[1m])) / on(node) count by (node) (temperature)) > 0.5
max by (node) (temperature) - on(node) group_right limit
1 - avg by (node) (rate(cpu_seconds_total[2m]))
{__name__=~"limit|info"} * 2
rate({__name__=~"cpu_seconds_total|late"}[2m])
cpu_seconds_total + on(node) limit
cpu_seconds_total + on(cpu) limit
limit + on() info
limit * on() group_left info
limit * on(node) group_left temperature
label_replace(temperature, "dimm", "same", "dimm", ".*")
label_replace(temperature, "node", "x", "node", ".*")
label_replace(temperature, `bare`, `x$1`, `node`, `(\\d)+`)
temperature[5m]
"text"
topk(0/0, temperature)
""".strip().splitlines()

REFUSED = """
sum(1)
rate(vector(1))
vector("a")
1 > 2
1 and 2
vector(1) and 2
"a" + 1
temperature[5m] > 1
abs(1)
time(1)
round()
temperature{__name__="b"}
temperature offset 5m offset 3m
temperature @ start() @ end()
sum by (a) (temperature) by (c)
temperature + on(node) group_left(node) limit
temperature and on(node) group_left limit
temperature == on(node) bool limit
1 == on(x) limit
temperature[5m][5m]
temperature[5m:1m][5m:]
temperature[0s]
temperature{,}
sum(temperature, limit)
absent_over_time(temperature)
count_values("", temperature)
count_values(1, temperature)
quantile("a", temperature)
topk("a", temperature)
topk(1e30, temperature)
{node=~".*"}
temperature{node=~"("}
unknown(temperature)
histogram_quantile(latency_bucket)
label_replace(temperature, "node", "x", "node", "(")
""".strip().splitlines()
