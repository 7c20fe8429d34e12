"""
Dashboards as code: plain dictionaries in, the JSON of `grafana/dashboards/` out.

One module is one dashboard, named after the question that an operator asks; `python -m grafana` writes them all.
https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""
